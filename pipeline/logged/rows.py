"""Rows out of log files of any usual format, one at a time, whatever is wrong with some of them."""

import gzip
import io
import json
import stat
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import xxhash

from pipeline.errors import TbrmError
from pipeline.logged.columnar import columnar_rows
from pipeline.logged.raw import RawRow
from pipeline.logged.text_rows import Open, csv_rows, json_lines_rows, json_rows
from pipeline.logged.torch_rows import torch_rows

COLUMNAR = (".parquet", ".arrow", ".feather", ".ipc")
TEXTUAL = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
TORCH = ".pt"
"""Samples of slime and miles. Taken where a file is named, and not out of a folder, which may be a checkpoint."""
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
MAX_UNPACKED = (2 * 2**30, 256)
"""All files together may unpack to so many bytes, or to so many times their size: no log repeats itself more often."""
_ROW_BYTES = 64
"""What a row counts for beside its content, so that there is an end to empty ones too."""
_MAX_INDEX_BYTES = 4 * 2**20
_PIECE = 2**20
_MAX_SHOWN = 200


def find_files(paths: list[str]) -> list[Path]:
    """The files meant by paths of files and folders, in order. Raises TbrmError for a path that holds no log."""
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        kind = _kind(path)
        if kind == "file":
            found.append(path)
        elif kind == "folder":
            inside = _saved_dataset(path) or sorted(
                p for p in path.rglob("*") if p.is_file() and _suffix(p) in _known()
            )
            if not inside:
                raise TbrmError(f"{path} holds no file of a known type ({', '.join(_known())})")
            _refuse_links_outside(path, inside)
            found += inside
        else:
            raise TbrmError(f"{given[:_MAX_SHOWN]} {kind}")
    for path in found:
        try:
            str(path).encode()
        except UnicodeEncodeError:  # the tables and the manifest name the files
            raise TbrmError(f"{path} has a name that is not UTF-8: rename it") from None
    return found


def _kind(path: Path) -> str:
    """`file`, `folder`, or what is wrong with the path."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be opened: {error.strerror if isinstance(error, OSError) else error}"
    if stat.S_ISREG(mode):
        return "file"
    # A pipe or a device can be read once and may never end; a log is read twice.
    return "folder" if stat.S_ISDIR(mode) else "is neither a file nor a folder: write what it holds into a file first"


def read_rows(paths: Sequence[Path], max_row_bytes: int) -> Iterator[RawRow]:
    """Rows of all files; a row that cannot be read comes with its problem.

    Raises TbrmError when a file as a whole cannot be read: unknown type, truncated Parquet, damaged compression, or far
    more content than its size.
    """
    least, times = MAX_UNPACKED
    packed = sum(path.stat().st_size for path in paths)
    limit = max(least, times * packed)
    unpacked = 0
    for path in paths:
        for row in _file_rows(path, max_row_bytes):
            unpacked += row.size + _ROW_BYTES
            if unpacked > limit:
                raise TbrmError(
                    f"{path} row {row.row}: {packed:,} bytes of files have unpacked to more than {limit:,}. Logs do "
                    "not repeat themselves like this; if this one is meant, unpack it before the import"
                )
            yield row


def _file_rows(path: Path, max_row_bytes: int) -> Iterator[RawRow]:
    suffix, name = _suffix(path), str(path)

    def opened() -> Any:
        return _opened(path)

    readers: dict[str, Callable[[Open], Iterator[RawRow]]] = {
        ".jsonl": lambda file: json_lines_rows(name, file, max_row_bytes),
        ".ndjson": lambda file: json_lines_rows(name, file, max_row_bytes),
        ".json": lambda file: json_rows(name, file, max_row_bytes),
        ".csv": lambda file: csv_rows(name, file, max_row_bytes, ","),
        ".tsv": lambda file: csv_rows(name, file, max_row_bytes, "\t"),
    }
    if suffix in COLUMNAR:
        yield from columnar_rows(path, max_row_bytes)
    elif suffix == TORCH:
        yield from torch_rows(path, max_row_bytes)
    elif suffix in readers:
        try:
            yield from readers[suffix](opened)
        except (OSError, EOFError, zlib.error) as error:  # pyarrow reports damaged zstd as OSError
            raise TbrmError(f"{path} is damaged or cut off ({error}): fetch it again, or leave it out") from error
    else:
        raise TbrmError(
            f"{path}: {suffix or 'no suffix'} is no known type of log ({', '.join(_known())}, also .gz and .zst)"
        )


def is_torch(path: Path) -> bool:
    """Whether reading the file needs torch."""
    return _suffix(path) == TORCH


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
    last = path.suffix.lower()
    if last not in COMPRESSED:
        return last
    inner = path.with_suffix("").suffix.lower()
    return inner if inner in TEXTUAL else inner + last


def _saved_dataset(folder: Path) -> list[Path]:
    """Files of a folder written by `datasets`' save_to_disk, in its own order; empty for other folders.

    What the index says is as little trusted as the rows: only the last part of its names counts.
    """
    index, splits = folder / "dataset_dict.json", [folder]
    if index.is_file():
        splits = [folder / _last_part(name, index) for name in _listed(index, lambda tree: list(tree["splits"]))]
    files: list[Path] = []
    for split in splits:
        state = split / "state.json"
        if state.is_file():
            names = _listed(state, lambda tree: [entry["filename"] for entry in tree["_data_files"]])
            files += [split / _last_part(name, state) for name in names]
    return files


def _last_part(name: str, index: Path) -> str:
    last = Path(name).name
    if last in ("", ".."):
        raise TbrmError(
            f"{index} names {name[:200]!r}, which is no file of its folder: name the files to import instead"
        )
    return last


def _listed(path: Path, names: Callable[[Any], list[Any]]) -> list[str]:
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError(f"more than {_MAX_INDEX_BYTES >> 20} MiB")
        return [str(name) for name in names(json.loads(path.read_text(encoding="utf-8")))]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TbrmError(f"{path} is not the index of a saved data set ({error!r}): name its files instead") from error


def _refuse_links_outside(folder: Path, files: Sequence[Path]) -> None:
    """A stranger who wrote a folder chooses what lies in it, but must not choose what else of this machine is read.

    Raises TbrmError for a file that is a link out of `folder`, or lies in one.
    """
    home = folder.resolve()
    if home.parent.name == "snapshots":  # the hub's cache keeps the files themselves beside its snapshots
        home = home.parent.parent
    for path in files:
        if not path.resolve().is_relative_to(home):
            raise TbrmError(
                f"{path} is a link out of {folder}, to {path.resolve()}. If it is meant, name that file itself"
            )


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
