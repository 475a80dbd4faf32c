"""Rows of Parquet, Arrow and Feather files, in the reader's process.

A file made to do harm, or only damaged, can crash a decoder or make it ask for all memory: that ends the reader, whose
memory is limited, and the import says which file it was.

What decodes well may still stand for more than it is. A few bytes can stand for gigabytes: lists of nulls have a length
and no values, dictionaries and runs repeat one value, and lists or texts that are views share theirs. So rows are
measured before they become Python objects, and become so a few at a time. The size of a value, spelled out, is counted
from the buffers that are really there, in time and memory linear in these, and what is wrong with the buffers (offsets
that run backwards or out of their array) is found on the way.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import xxhash

from pipeline.errors import TbrmError
from pipeline.logged.raw import PER_TOKEN, RawRow, too_large
from pipeline.logged.settings import CHUNK_BYTES
from pipeline.logged.sources import LogFile, Part, open_part

pc: Any = pyarrow.compute  # its functions are made at import time, unseen by type checkers
Sizes = npt.NDArray[np.float64]
_Places = npt.NDArray[np.int64]

BATCH_ROWS = 64
"""Rows of Parquet decoded together: those of the usual limit of 16 MiB then still fit the memory."""
_MEASURED_ROWS = 2**20
_STREAMED_BYTES = 2**20
ELEMENT_BYTES = 8
"""Bytes that a number, a null, or a container without its content counts for: about what each takes as JSON."""
_VIEWED_TIMES = 64
"""Texts that are views may become this many times as large as the array: checking their content costs as much."""


def columnar_rows(
    file: LogFile,
    limit: int,
    opened: Callable[[LogFile], Part] = open_part,
    read: Callable[[float], None] = lambda share: None,
) -> Iterator[RawRow]:
    """Rows of a Parquet, Arrow or Feather file. Raises TbrmError when it cannot be decoded, and MemoryError.

    `read` is told which share of the file's batches was read.
    """
    number = 0
    try:
        for batch, share in _batches(file, opened):
            for start in range(0, batch.num_rows, _MEASURED_ROWS):
                for row in _rows(file.name, number, batch.slice(start, _MEASURED_ROWS), limit):
                    number = row.row
                    yield row
            read(share)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:500]
        raise TbrmError(
            f"{file.name} cannot be read after row {number}: {reason}. Fetch it again, or leave it out"
        ) from error


def _batches(file: LogFile, opened: Callable[[LogFile], Part]) -> Iterator[tuple[pa.RecordBatch, float]]:
    """Batches, each with the share of the file that is read with it."""
    if file.suffix == ".parquet":
        # Columns are read as streams: whole, those of a large row group would be held beside each other.
        source: Any = pa.PythonFile(opened(file), "r") if file.is_remote else file.name
        parquet = pq.ParquetFile(source, buffer_size=_STREAMED_BYTES)
        rows = 0
        for group in range(parquet.num_row_groups):  # asked for all groups at once, Arrow frees none before the last
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]):
                rows += batch.num_rows
                yield batch, rows / parquet.metadata.num_rows
        return
    source = pa.PythonFile(opened(file), "r") if file.is_remote else pa.memory_map(file.name, "rb")
    if source.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index), (index + 1) / reader.num_record_batches
        return
    source.seek(0)
    for batch in pa.ipc.open_stream(source):
        yield batch, source.tell() / file.size


def _rows(file: str, before: int, batch: pa.RecordBatch, limit: int) -> Iterator[RawRow]:
    """The rows of a batch, numbered from `before` + 1."""
    sizes = row_sizes(batch)
    start = 0
    while start < len(sizes):
        if sizes[start] > limit:
            yield too_large(file, before + start + 1, float(sizes[start]), limit, read=0)
            start += 1
            continue
        stop, total = start + 1, sizes[start]
        while stop < len(sizes) and sizes[stop] <= limit and total + sizes[stop] <= CHUNK_BYTES:
            total += sizes[stop]
            stop += 1
        yield from _spelled_out(file, before + start, batch.slice(start, stop - start), sizes[start:stop])
        start = stop


def _spelled_out(file: str, before: int, few: pa.RecordBatch, sizes: Any) -> Iterator[RawRow]:
    try:
        columns = [
            _values(column) if name in PER_TOKEN else column.to_pylist()
            for name, column in zip(few.schema.names, few.columns, strict=True)
        ]
        rows = [dict(zip(few.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]
        found = [
            RawRow(file, number, row, None, _digest(row), int(size))
            for number, (row, size) in enumerate(zip(rows, sizes, strict=True), start=before + 1)
        ]
    except (ValueError, LookupError, OverflowError, RecursionError, pa.ArrowException) as error:
        if few.num_rows > 1:  # one of them holds broken UTF-8, a time that no calendar has or of a zone unknown here, …
            for row in range(few.num_rows):
                yield from _spelled_out(file, before + row, few.slice(row, 1), sizes[row : row + 1])
            return
        problem = f"holds a value that cannot be read: {error}"[:200]
        found = [RawRow(file, before + 1, None, problem, before + 1, int(sizes[0]))]
    yield from found


def _values(column: "pa.Array[Any]") -> list[Any]:
    """Python values; lists of numbers stay arrays, which take a tenth of the memory and of the time."""
    kind: Any = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not listed or not (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
        return column.to_pylist()
    lists: Any = column
    offsets = lists.offsets.to_numpy()
    numbers = lists.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    if numbers.null_count:
        return column.to_pylist()
    flat, bounds = numbers.to_numpy(zero_copy_only=False), offsets - offsets[0]
    valid = column.is_valid().to_pylist()
    return [flat[bounds[i] : bounds[i + 1]] if valid[i] else None for i in range(len(column))]


def _digest(data: dict[str, Any]) -> int:
    arrays = {name: value for name, value in data.items() if isinstance(value, np.ndarray)}
    rest = {name: value for name, value in data.items() if name not in arrays}
    digest = xxhash.xxh3_64(json.dumps(rest, sort_keys=True, default=str).encode())
    for name, numbers in sorted(arrays.items()):
        digest.update(f"\x1f{name}\x1f{numbers.dtype.str}\x1f{len(numbers)}\x1f".encode())
        digest.update(numbers.tobytes())
    return digest.intdigest()


def row_sizes(batch: pa.RecordBatch) -> Sizes:
    """Bytes of each row, spelled out. Raises ArrowInvalid for arrays whose parts do not fit together, or columns of one
    name."""
    if repeated := [name for name, times in Counter(batch.schema.names).items() if times > 1]:
        raise pa.ArrowInvalid(f"{repeated[0][:100]!r} is the name of more than one column")
    rows = np.arange(batch.num_rows, dtype=np.int64)
    total = np.zeros(batch.num_rows)
    for column in batch.columns:
        total += _spans(column, rows, rows + 1)
    return total


def _spans(array: Any, starts: _Places, ends: _Places) -> Sizes:
    """Bytes of the elements [starts[i], ends[i]) of `array`, for each i."""
    if len(starts) and not (int(starts.min()) >= 0 and int(ends.max()) <= len(array) and bool((starts <= ends).all())):
        raise pa.ArrowInvalid(f"offsets lead out of an array of {array.type}")
    if len(array) == 0:
        return np.zeros(len(starts))  # arrays without elements may lack their buffers
    kind = array.type
    own = ELEMENT_BYTES * (ends - starts).astype(np.float64)
    if isinstance(kind, pa.BaseExtensionType):
        return _spans(array.storage, starts, ends)
    if _is_text(kind):
        return own + _from_each(_text_lengths(array), starts, ends)
    if pa.types.is_fixed_size_binary(kind):
        return own + kind.byte_width * (ends - starts)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        offsets = array.offsets.to_numpy().astype(np.int64)
        return own + _spans(array.values, offsets[starts], offsets[ends])
    if pa.types.is_fixed_size_list(kind):
        first = (starts + array.offset) * kind.list_size
        return own + _spans(array.values, first, first + (ends - starts) * kind.list_size)
    if pa.types.is_struct(kind):
        return own + sum((_spans(array.field(i), starts, ends) for i in range(kind.num_fields)), np.zeros(len(starts)))
    if pa.types.is_dictionary(kind):
        return own + _from_each(_dictionary_sizes(array), starts, ends)
    if pa.types.is_run_end_encoded(kind):
        return own + _run_sizes(array, starts, ends)
    if pa.types.is_union(kind):
        return own + _union_sizes(array, starts, ends)
    if _is_list_view(kind):
        offsets, lengths = (
            part.to_numpy(zero_copy_only=False).astype(np.int64) for part in (array.offsets, array.sizes)
        )
        return own + _from_each(_spans(array.values, offsets, offsets + lengths), starts, ends)
    return own  # null, numbers, times


def _from_each(sizes: Sizes, starts: _Places, ends: _Places) -> Sizes:
    """Sums over ranges of the sizes of single elements."""
    sums = np.concatenate([[0.0], np.cumsum(sizes, dtype=np.float64)])
    return sums[ends] - sums[starts]


def _is_text(kind: pa.DataType) -> bool:
    of = pa.types
    return any(fits(kind) for fits in (of.is_string, of.is_large_string, of.is_binary, of.is_large_binary)) or _is_view(
        kind
    )


def _is_view(kind: pa.DataType) -> bool:
    return pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)


def _is_list_view(kind: pa.DataType) -> bool:
    return pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)


def _text_lengths(array: Any) -> Sizes:
    if _is_view(array.type):
        return _viewed_lengths(array)
    lengths: npt.NDArray[Any] = pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    if len(lengths) and int(lengths.min()) < 0:
        raise pa.ArrowInvalid(f"offsets of {array.type} run backwards")
    return lengths.astype(np.float64)


def _viewed_lengths(array: Any) -> Sizes:
    """Lengths of texts that are views. Arrow has no function for them: a view is four numbers, of which the first
    counts."""
    views, *texts = array.buffers()[1:]
    numbers = np.frombuffer(views, np.int32) if views is not None else np.zeros(0, np.int32)
    lengths = numbers[4 * array.offset : 4 * (array.offset + len(array)) : 4].astype(np.float64)
    lengths[~array.is_valid().to_numpy(zero_copy_only=False)] = 0
    there = views.size + sum(text.size for text in texts) if views is not None else 0
    if len(lengths) != len(array) or bool((lengths < 0).any()) or float(lengths.sum()) > _VIEWED_TIMES * there:
        raise pa.ArrowInvalid(f"{array.type} of {there:,} bytes that stand for {float(lengths.sum()):,.0f}")
    array.validate(full=True)
    return lengths


def _dictionary_sizes(array: Any) -> Sizes:
    """The number of the value that each element stands for. Values that no element stands for are not looked at."""
    valid: npt.NDArray[np.bool_] = array.indices.is_valid().to_numpy(zero_copy_only=False)
    indices: _Places = array.indices.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    used, which = np.unique(indices, return_inverse=True)
    sizes = np.zeros(len(array))
    sizes[valid] = _spans(array.dictionary, used, used + 1)[which]
    return sizes


def _run_sizes(array: Any, starts: _Places, ends: _Places) -> Sizes:
    bounds = np.concatenate([[0], array.run_ends.to_numpy().astype(np.int64)])
    runs = np.arange(len(bounds) - 1, dtype=np.int64)
    if bool((np.diff(bounds) <= 0).any()) or int(bounds[-1]) < array.offset + len(array):
        raise pa.ArrowInvalid("runs that do not follow each other to the end of their array")
    sums = np.concatenate([[0.0], np.cumsum(np.diff(bounds) * _spans(array.values, runs, runs + 1))])
    return np.interp(ends + array.offset, bounds, sums) - np.interp(starts + array.offset, bounds, sums)


def _union_sizes(array: Any, starts: _Places, ends: _Places) -> Sizes:
    kind = array.type
    if kind.mode == "sparse":  # every child has a value for each element; all are counted, one is shown
        return sum((_spans(array.field(i), starts, ends) for i in range(kind.num_fields)), np.zeros(len(starts)))
    place = slice(array.offset, array.offset + len(array))  # `type_codes` and `offsets` forget where a slice begins
    codes = np.frombuffer(array.buffers()[1], np.int8)[place]
    offsets: _Places = np.frombuffer(array.buffers()[2], np.int32)[place].astype(np.int64)
    sizes = np.zeros(len(array))
    for i, code in enumerate(kind.type_codes):
        chosen = codes == code
        sizes[chosen] = _spans(array.field(i), offsets[chosen], offsets[chosen] + 1)
    return sizes
