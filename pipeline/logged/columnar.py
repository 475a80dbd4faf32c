"""Rows of Parquet, Arrow and Feather files, in the reader's process.

A file made to do harm, or only damaged, can crash a decoder or make it ask for all memory: that ends the reader, whose
memory is limited, and the import says which file it was. What decodes well may still stand for more than it is: rows
are measured before they become Python objects, and become so a few at a time.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.errors import TbrmError
from pipeline.logged.raw import RawRow, too_large
from pipeline.logged.settings import CHUNK_BYTES
from pipeline.logged.spelled_out import row_sizes

BATCH_ROWS = 64
"""Rows of Parquet decoded together: those of the usual limit of 16 MiB then still fit the memory."""
_MEASURED_ROWS = 2**20
_STREAMED_BYTES = 2**20


def columnar_rows(path: Path, limit: int) -> Iterator[RawRow]:
    """Rows of a Parquet, Arrow or Feather file. Raises TbrmError when it cannot be decoded, and MemoryError."""
    number = 0
    try:
        for batch in _batches(path):
            for start in range(0, batch.num_rows, _MEASURED_ROWS):
                for row in _rows(str(path), number, batch.slice(start, _MEASURED_ROWS), limit):
                    number = row.row
                    yield row
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:500]
        raise TbrmError(
            f"{path} cannot be read after row {number}: {reason}. Fetch it again, or leave it out"
        ) from error


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix.lower() == ".parquet":
        # Columns are read as streams: whole, those of a large row group would be held beside each other.
        yield from pq.ParquetFile(path, buffer_size=_STREAMED_BYTES).iter_batches(batch_size=BATCH_ROWS)
        return
    source = pa.memory_map(str(path), "rb")
    if source.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
        return
    source.seek(0)
    yield from pa.ipc.open_stream(source)


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
        columns = [_values(column) for column in few.columns]
        rows = [dict(zip(few.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]
        found = [
            RawRow(file, number, row, None, _digest(row), int(size))
            for number, (row, size) in enumerate(zip(rows, sizes, strict=True), start=before + 1)
        ]
    except (ValueError, OverflowError, RecursionError, pa.ArrowException) as error:
        if few.num_rows > 1:  # one of them holds broken UTF-8, a time that no calendar has, …
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
