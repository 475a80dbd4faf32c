"""Rows out of log files of any usual format, one at a time, whatever is wrong with some of them."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import xxhash

from pipeline.errors import TbrmError
from pipeline.logged.columnar import read_columnar

COLUMNAR = (".parquet", ".arrow", ".feather", ".ipc")
TEXTUAL = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
MAX_JSON_BYTES = 512 * 2**20
_PIECE = 2**20


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a log. Exactly one of `data` and `problem` is set."""

    file: str
    row: int
    """1-based; the line number in JSONL and CSV files."""
    data: Mapping[str, Any] | None
    problem: str | None
    digest: int
    """Hash of the row as it stands in the log; equal rows have equal digests."""
    text_cells: bool = False
    """Every value is text, as CSV has it: numbers and lists are parsed where a field needs them."""


def find_files(paths: list[str]) -> list[Path]:
    """The files meant by paths of files and folders, in order. Raises TbrmError for a path that holds no log."""
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = _saved_dataset(path) or sorted(
                p for p in path.rglob("*") if p.is_file() and _suffix(p) in _known()
            )
            if not inside:
                raise TbrmError(f"{path} holds no file of a known type ({', '.join(_known())})")
            found += inside
        else:
            raise TbrmError(f"{path} does not exist")
    return found


def read_rows(path: Path, max_row_bytes: int) -> Iterator[RawRow]:
    """Rows of one file; a row that cannot be read comes with its problem.

    Raises TbrmError when the file as a whole cannot be read: unknown type, truncated Parquet, damaged compression.
    """
    suffix = _suffix(path)
    if suffix in COLUMNAR:
        yield from _columnar_rows(path, max_row_bytes)
        return
    readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _csv, ".tsv": _csv}
    if suffix not in readers:
        raise TbrmError(
            f"{path}: {suffix or 'no suffix'} is no known type of log ({', '.join(_known())}, also .gz and .zst)"
        )
    with _opened(path) as file:
        try:
            yield from readers[suffix](path, file, max_row_bytes)
        except (OSError, EOFError, zlib.error) as error:  # pyarrow reports damaged zstd as OSError
            raise TbrmError(f"{path} is damaged or cut off ({error}): fetch it again, or leave it out") from error


def file_digest(path: Path) -> str:
    """XXH3-128 of the file's bytes."""
    total = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            total.update(piece)
    return "xxh3:" + total.hexdigest()


def _known() -> tuple[str, ...]:
    return (*TEXTUAL, *COLUMNAR)


def _suffix(path: Path) -> str:
    """The suffix that tells the format, below a suffix that tells the compression."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def _saved_dataset(folder: Path) -> list[Path]:
    """Files of a folder written by `datasets`' save_to_disk, in its own order; empty for other folders.

    Only names inside the folder are followed: what the index says is as little trusted as the rows.
    """
    index, splits = folder / "dataset_dict.json", [folder]
    if index.is_file():
        splits = [folder / Path(name).name for name in _listed(index, lambda tree: list(tree["splits"]))]
    files: list[Path] = []
    for split in splits:
        if (split / "state.json").is_file():
            names = _listed(split / "state.json", lambda tree: [entry["filename"] for entry in tree["_data_files"]])
            files += [split / Path(name).name for name in names]
    return files


def _listed(path: Path, names: Callable[[Any], list[Any]]) -> list[str]:
    try:
        return [str(name) for name in names(json.loads(path.read_text(encoding="utf-8")))]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TbrmError(f"{path} is not the index of a saved data set ({error!r}): name its files instead") from error


@contextmanager
def _opened(path: Path) -> Generator[BinaryIO]:
    compression = COMPRESSED.get(path.suffix.lower())
    if compression == "gzip":
        with gzip.open(path, "rb") as file:
            yield io.BufferedReader(file, _PIECE)  # type: ignore[arg-type]
    elif compression == "zstd":
        with pa.input_stream(str(path), compression="zstd") as stream:
            yield io.BufferedReader(stream, _PIECE)  # type: ignore[arg-type]
    else:
        with path.open("rb", _PIECE) as file:
            yield file


def _json_lines(path: Path, file: BinaryIO, limit: int) -> Iterator[RawRow]:
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) > limit:
            size = len(line)
            while not line.endswith(b"\n") and (line := file.readline(_PIECE)):
                size += len(line)
            yield RawRow(str(path), number, None, _too_large(size, limit), number)
        elif line.strip():
            yield _parsed(path, number, line)


def _too_large(size: int, limit: int) -> str:
    return f"the row has {size / 2**20:.1f} MiB, more than --max-row-mb {limit / 2**20:g}"


def _parsed(path: Path, number: int, line: bytes) -> RawRow:
    digest = xxhash.xxh3_64_intdigest(line.strip())
    try:
        data = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RawRow(str(path), number, None, f"not UTF-8 at byte {error.start} of the row", digest)
    except (ValueError, RecursionError) as error:  # ValueError: also integers of thousands of digits
        return RawRow(str(path), number, None, f"not JSON: {error}", digest)
    if not isinstance(data, dict):
        return RawRow(str(path), number, None, f"a JSON {type(data).__name__}, not an object", digest)
    return RawRow(str(path), number, data, None, digest)


def _json(path: Path, file: BinaryIO, limit: int) -> Iterator[RawRow]:
    """A JSON array of objects, an object that holds one array of them, or (as some tools name it) JSON lines."""
    text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise TbrmError(f"{path} has more than {MAX_JSON_BYTES >> 20} MiB in one JSON value: convert it to JSON lines")
    try:
        tree = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise TbrmError(f"{path} is not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] == b"{" and b"\n" in text.strip():
            yield from _json_lines(path, io.BytesIO(text), limit)
            return
        raise TbrmError(f"{path} is not JSON: {error}") from error
    if isinstance(tree, dict):
        lists = [value for value in tree.values() if isinstance(value, list)]
        tree = lists[0] if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]) else [tree]
    for number, row in enumerate(tree if isinstance(tree, list) else [tree], start=1):
        yield _from_object(path, number, row, limit)


def _from_object(path: Path, number: int, row: object, limit: int) -> RawRow:
    text = json.dumps(row, sort_keys=True, default=str).encode()
    digest = xxhash.xxh3_64_intdigest(text)
    if not isinstance(row, dict):
        return RawRow(str(path), number, None, f"{type(row).__name__}, not an object", digest)
    if len(text) > limit:
        return RawRow(str(path), number, None, _too_large(len(text), limit), digest)
    return RawRow(str(path), number, row, None, digest)


def _csv(path: Path, file: BinaryIO, limit: int) -> Iterator[RawRow]:
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(limit)
    reader = csv.reader(lines, delimiter="\t" if _suffix(path) == ".tsv" else ",", strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise TbrmError(f"{path} line 1: the header is not CSV: {error}") from error
    if not header:
        raise TbrmError(f"{path} is empty: a CSV file needs a header with the names of its fields")
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield RawRow(str(path), reader.line_num, None, f"not CSV: {error}", reader.line_num)
            continue
        if not cells:
            continue
        digest = xxhash.xxh3_64_intdigest("\x1f".join(cells).encode("utf-8", "surrogateescape"))
        if len(cells) != len(header):
            problem = f"{len(cells)} cells where the header has {len(header)}"
            yield RawRow(str(path), reader.line_num, None, problem, digest)
        elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            yield RawRow(str(path), reader.line_num, None, "not UTF-8", digest)
        else:
            yield RawRow(str(path), reader.line_num, dict(zip(header, cells, strict=True)), None, digest, True)


def _columnar_rows(path: Path, limit: int) -> Iterator[RawRow]:
    number = 0
    for batch in read_columnar(path):
        for row in batch.to_pylist():
            number += 1
            yield _from_object(path, number, row, limit)
