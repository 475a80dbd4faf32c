"""Where the files of a log lie: folders of this machine, and any location that fsspec knows (`s3://`, `hf://`, …).

The importer finds them and names what they hold. The process that reads a log opens local files itself; it reaches no
network, so of others it is sent the bytes that it asks for.
"""

import io
import json
import os
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import xxhash

from pipeline.errors import TbrmError

COLUMNAR = (".parquet", ".arrow", ".feather", ".ipc")
LINES = (".jsonl", ".ndjson")
TEXTUAL = (*LINES, ".json", ".csv", ".tsv")
TORCH = ".pt"
"""Samples of slime and miles. Taken where a file is named, and not out of a folder, which may be a checkpoint."""
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
KNOWN = (*TEXTUAL, *COLUMNAR)
_MAX_INDEX_BYTES = 4 * 2**20
_INDICES = ("state.json", "dataset_info.json", "dataset_dict.json")
"""What `datasets` writes beside its files, which is no log."""
_PIECE = 2**20
_MAX_SHOWN = 200
_ABSENT = "does not exist"
_MOST_SENT = 2**24
_BLOCK, _BLOCKS = 4 * 2**20, 8
"""Remote files are fetched in blocks, the next one while one is read; so many are kept. Those of no more than a block
come whole, as many together as all blocks hold."""
_TOGETHER = 32
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "oid")
"""What stores call a tag that names the content of an object."""


@dataclass(frozen=True)
class LogFile:
    """The bytes [start, end) of a file."""

    name: str
    """Its path, or its address where it lies elsewhere; messages and the quarantine call it so."""
    end: int
    start: int = 0
    rows_before: int = 0
    """Rows of the file before `start`."""
    tag: str = ""
    """By which the store names the content, where it lies elsewhere."""

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def is_remote(self) -> bool:
        return "://" in self.name

    @property
    def suffix(self) -> str:
        """The suffix that tells the format, below a suffix that tells the compression."""
        return _suffix(self.name)

    @property
    def compression(self) -> str | None:
        return COMPRESSED.get(Path(self.name).suffix.lower())

    @property
    def grows_by_lines(self) -> bool:
        return self.suffix in LINES and self.compression is None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def local_file(path: Path | str) -> LogFile:
    return LogFile(str(path), Path(path).stat().st_size)


class NoLog(TbrmError):
    """A place where no file of a log lies, or none yet."""


class ReadAt(Protocol):
    """Bytes of a file: at most so many, fewer only at its end."""

    def __call__(self, place: int, size: int) -> bytes: ...


class Part(io.RawIOBase):
    """The bytes of a LogFile as a file of its own."""

    def __init__(self, file: LogFile, read_at: ReadAt, close: Callable[[], None] = lambda: None) -> None:
        self._file, self._read_at, self._close, self.place = file, read_at, close, 0

    def readinto(self, buffer: Any) -> int:
        data = self._read_at(self._file.start + self.place, max(0, min(len(buffer), self._file.size - self.place)))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self._file.size}[whence]
        self.place = max(0, begin + offset)
        return self.place

    def tell(self) -> int:
        return self.place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._close()
        super().close()


def open_part(file: LogFile) -> Part:
    """A local file. Raises OSError."""
    handle = os.open(file.name, os.O_RDONLY)
    return Part(file, lambda place, size: os.pread(handle, size, place), lambda: os.close(handle))


def _suffix(name: str) -> str:
    path = Path(name)
    last = path.suffix.lower()
    if last not in COMPRESSED:
        return last
    inner = path.with_suffix("").suffix.lower()
    return inner if inner in TEXTUAL else inner + last


def find_files(paths: Sequence[str]) -> list[LogFile]:
    """The files meant by paths and addresses of files and folders, and by wildcards, in order.

    Raises TbrmError for one that holds no log.
    """
    found: list[LogFile] = []
    for given in paths:
        found += _elsewhere(given) if "://" in given else [local_file(path) for path in _here(given)]
    for file in found:
        try:
            file.name.encode()
        except UnicodeEncodeError:  # the tables and the manifest name the files
            raise TbrmError(f"{file.name} has a name that is not UTF-8: rename it") from None
    return found


def _here(given: str) -> list[Path]:
    path = Path(given)
    kind = _kind(path)
    if kind == "file":
        return [path]
    if kind == "folder":
        inside = _saved_dataset(path) or sorted(p for p in path.rglob("*") if p.is_file() and _suffix(p.name) in KNOWN)
        if not inside:
            raise _no_log(given)
        _refuse_links_outside(path, inside)
        return inside
    if _is_pattern(given):
        from fsspec.implementations.local import LocalFileSystem

        fs: Any = LocalFileSystem()
        matching: list[str] = sorted(fs.glob(given))
        if not matching:
            raise NoLog(f"{given}: no file has such a name")
        return [found for name in matching for found in _here(name)]
    if kind == _ABSENT:
        raise NoLog(f"{given[:_MAX_SHOWN]} {kind}")
    raise TbrmError(f"{given[:_MAX_SHOWN]} {kind}")


def _kind(path: Path) -> str:
    """`file`, `folder`, or what is wrong with the path."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return _ABSENT
    except (OSError, ValueError) as error:
        return f"cannot be opened: {error.strerror if isinstance(error, OSError) else error}"
    if stat.S_ISREG(mode):
        return "file"
    # A pipe or a device can be read once and may never end; a log is read twice.
    return "folder" if stat.S_ISDIR(mode) else "is neither a file nor a folder: write what it holds into a file first"


def _is_pattern(given: str) -> bool:
    return any(sign in given for sign in "*?[")


def _no_log(given: str) -> NoLog:
    return NoLog(f"{given} holds no file of a known type ({', '.join(KNOWN)})")


def _elsewhere(given: str) -> list[LogFile]:
    fs, path = _file_system(given)
    with reaching(given):
        if _is_pattern(path):
            found: dict[str, dict[str, Any]] = fs.glob(path, detail=True)
            if not found:
                raise NoLog(f"{given}: no object has such a name")
        elif fs.isfile(path):
            found = {path: fs.info(path)}
        else:
            found = fs.find(path, detail=True)
    named = {name: about for name, about in sorted(found.items()) if about.get("type") != "directory"}
    if not (len(named) == 1 and path in named):
        kept = (name for name in named if _suffix(name) in KNOWN and name.rpartition("/")[2] not in _INDICES)
        named = {name: named[name] for name in kept}
    if not named:
        raise _no_log(given) if found else NoLog(f"{given} does not exist")
    return [_listed_file(fs.unstrip_protocol(name), about) for name, about in named.items()]


def _listed_file(address: str, about: dict[str, Any]) -> LogFile:
    size = about.get("size")
    if not isinstance(size, int):
        raise TbrmError(f"{address}: its server does not tell its size; download it and import the file")
    tag = next((str(about[name]) for name in _TAGS if about.get(name)), "")
    return LogFile(address, size, tag=tag.strip('"'))


def _file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system and path. Raises TbrmError where its package is missing or the protocol unknown."""
    from fsspec.core import url_to_fs

    from pipeline.errors import absent_package
    from pipeline.store.files import EXTRAS

    try:
        return url_to_fs(address, use_listings_cache=False)  # a running trainer writes there too
    except ImportError as error:
        told = absent_package(error, EXTRAS.get(address.partition("://")[0], "all"), address)
        if told is None:
            raise
        raise told from error
    except ValueError as error:
        raise TbrmError(f"{address}: {error}") from error


@contextmanager
def reaching(name: str) -> Generator[None]:
    """TbrmError naming the object where a store cannot be reached or refuses it."""
    try:
        yield
    except TbrmError:
        raise
    except Exception as error:  # every store's client has errors of its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        kind = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {reason}"
        raise TbrmError(
            f"{name} {kind}. Nothing was committed; shards that are finished are kept, and the same command goes on "
            "behind them"
        ) from error


class Remote:
    """The importer's side of files that lie elsewhere: one of them is open at a time, and some small ones are held."""

    def __init__(self, files: Sequence[LogFile]) -> None:
        self._files = files
        self._open: tuple[int, Any] | None = None
        self._held: dict[str, bytes] = {}

    def read(self, index: int, place: int, size: int) -> bytes:
        """Bytes of a file. Raises TbrmError for what is none of the log's files, and where the store fails."""
        file = self._files[index] if 0 <= index < len(self._files) else None
        if file is None or not file.is_remote or not (0 <= place <= file.end and 0 <= size <= _MOST_SENT):
            raise TbrmError("the process that reads the log asked for bytes that are not the log's")
        with reaching(file.name):
            if self._open is None or self._open[0] != index:
                self.close()
                self._open = index, self._opened(index)
            handle = self._open[1]
            handle.seek(place)
            return handle.read(min(size, file.end - place))

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _opened(self, index: int) -> Any:
        file = self._files[index]
        fs, path = _file_system(file.name)
        if file.end > _BLOCK:
            kept = {"cache_type": "background", "cache_options": {"maxblocks": _BLOCKS}}
            handle = fs.open(path, "rb", block_size=_BLOCK, **kept)
            size = getattr(handle, "size", file.end)
        else:
            if file.name not in self._held:
                self._fetch(index, fs)
            data = self._held[file.name]
            handle, size = io.BytesIO(data), len(data)
        if size < file.end:
            raise TbrmError(f"{file.name} was changed while it was read: it has {size:,} bytes, of {file.end:,}")
        return handle

    def _fetch(self, index: int, fs: Any) -> None:
        """Fetch a small file, and the small ones behind it: one after the other, thousands would take long."""
        few: dict[str, str] = {}
        for file in self._files[index : index + _TOGETHER]:
            if file.is_remote and file.end <= _BLOCK:
                other, path = _file_system(file.name)
                few |= {path: file.name} if other is fs else {}
        found: dict[str, Any] = fs.cat(list(few), on_error="return")
        self._held = {few[path]: data for path, data in found.items() if isinstance(data, bytes)}
        missing = found.get(next(iter(few)))
        if isinstance(missing, BaseException):
            raise missing


def read_piece(file: LogFile) -> BinaryIO:
    """The bytes of a file, wherever it lies, for the importer itself."""
    if not file.is_remote:
        return io.BufferedReader(open_part(file), _PIECE)
    remote = Remote([file])
    return io.BufferedReader(Part(file, lambda place, size: remote.read(0, place, size), remote.close), _PIECE)


def file_digest(file: LogFile, read: Callable[[int], None] = lambda size: None) -> str:
    """XXH3-128 of the bytes of a local file; of another, the tag by which its store names the content.

    A store without tags names when it was written. `read` is told of each piece how long it is.
    """
    if file.is_remote:
        fs, path = _file_system(file.name)
        with reaching(file.name):
            return f"{file.start}-{file.end}:{file.tag or fs.ukey(path)}"
    total = xxhash.xxh3_128()
    with open_part(file) as part:
        raw = io.BufferedReader(part, _PIECE)
        while piece := raw.read(_PIECE):
            total.update(piece)
            read(len(piece))
    return "xxh3:" + total.hexdigest()


def without_half_a_line(file: LogFile) -> LogFile:
    """The file up to the end of its last whole line."""
    at = file.end
    with read_piece(replace(file, start=0)) as raw:
        while at > file.start:
            begin = max(file.start, at - _PIECE)
            raw.seek(begin)
            found = raw.read(at - begin).rfind(b"\n")
            if found >= 0:
                return replace(file, end=begin + found + 1)
            at = begin
    return replace(file, end=file.start)


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
    for path in files:
        if not path.is_file():
            raise TbrmError(f"{path} is named in the index of its folder, and is not there: fetch the data set again")
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
