"""Rows out of log files of any usual format, one at a time, whatever is wrong with some of them."""

import gzip
import io
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from pipeline.errors import TbrmError
from pipeline.logged.columnar import columnar_rows
from pipeline.logged.raw import RawRow
from pipeline.logged.sources import COLUMNAR, KNOWN, TORCH, LogFile, Part, open_part
from pipeline.logged.text_rows import Open, csv_rows, json_lines_rows, json_rows
from pipeline.logged.torch_rows import torch_rows

MAX_UNPACKED = (2 * 2**30, 256)
"""All files together may unpack to so many bytes, or to so many times their size: no log repeats itself more often."""
_ROW_BYTES = 64
"""What a row counts for beside its content, so that there is an end to empty ones too."""
_PIECE = 2**20


@dataclass
class Place:
    """How far reading has come, in bytes of the files as they lie there."""

    finished: int = 0
    """Of the files before this one."""
    part: Part | None = None
    """The file that is being read."""
    within: int = 0
    """Of a columnar file, whose parts are not read in order."""

    @property
    def bytes(self) -> int:
        return self.finished + (self.within if self.part is None else self.part.place)


def read_rows(
    files: Sequence[LogFile],
    max_row_bytes: int,
    opened: Callable[[LogFile], Part] = open_part,
    place: Place | None = None,
) -> Iterator[RawRow]:
    """Rows of all files; a row that cannot be read comes with its problem. `place` is kept up to date.

    Raises TbrmError when a file as a whole cannot be read: unknown type, truncated Parquet, damaged compression, or far
    more content than its size.
    """
    place = place or Place()
    least, times = MAX_UNPACKED
    packed = sum(file.size for file in files)
    limit = max(least, times * packed)
    unpacked = 0
    for file in files:
        for row in _file_rows(file, max_row_bytes, opened, place):
            unpacked += row.size + _ROW_BYTES
            if unpacked > limit:
                raise TbrmError(
                    f"{file.name} row {row.row}: {packed:,} bytes of files have unpacked to more than {limit:,}. Logs "
                    "do not repeat themselves like this; if this one is meant, unpack it before the import"
                )
            yield row
        place.finished, place.part, place.within = place.finished + file.size, None, 0


def _file_rows(file: LogFile, max_row_bytes: int, opened: Callable[[LogFile], Part], place: Place) -> Iterator[RawRow]:
    suffix, name = file.suffix, file.name

    @contextmanager
    def unpacked() -> Generator[BinaryIO]:
        with opened(file) as part:
            place.part = part
            with _unpacked(part, file.compression) as raw:
                yield raw

    readers: dict[str, Callable[[Open], Iterator[RawRow]]] = {
        ".jsonl": lambda raw: json_lines_rows(name, raw, max_row_bytes, file.rows_before),
        ".ndjson": lambda raw: json_lines_rows(name, raw, max_row_bytes, file.rows_before),
        ".json": lambda raw: json_rows(name, raw, max_row_bytes),
        ".csv": lambda raw: csv_rows(name, raw, max_row_bytes, ","),
        ".tsv": lambda raw: csv_rows(name, raw, max_row_bytes, "\t"),
    }

    def share(read: float) -> None:
        place.within = int(read * file.size)

    if suffix in COLUMNAR:
        yield from columnar_rows(file, max_row_bytes, opened, share)
    elif suffix == TORCH:
        yield from torch_rows(file, max_row_bytes, opened)
    elif suffix in readers:
        try:
            yield from readers[suffix](unpacked)
        except (OSError, EOFError, zlib.error) as error:  # pyarrow reports damaged zstd as OSError
            raise TbrmError(f"{name} is damaged or cut off ({error}): fetch it again, or leave it out") from error
    else:
        raise TbrmError(
            f"{name}: {suffix or 'no suffix'} is no known type of log ({', '.join(KNOWN)}, also .gz and .zst)"
        )


@contextmanager
def _unpacked(part: Part, compression: str | None) -> Generator[BinaryIO]:
    if compression == "gzip":
        with gzip.open(io.BufferedReader(part, _PIECE), "rb") as file:
            yield io.BufferedReader(file, _PIECE)  # type: ignore[arg-type]
    elif compression == "zstd":
        with pa.CompressedInputStream(pa.PythonFile(part, "r"), "zstd") as stream:
            yield io.BufferedReader(stream, _PIECE)  # type: ignore[arg-type]
    else:
        yield io.BufferedReader(part, _PIECE)
