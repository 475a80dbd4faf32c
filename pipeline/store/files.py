"""The files of a store, at any fsspec location: written whole or not at all, and read with their checksums.

Nothing here assumes a local path, except where it asks `is_local`.

Identifiers and checksums are deterministic: the same content has the same name on every machine.
"""

import dataclasses
import errno
import functools
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import xxhash
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import StoreError, TbrmError, absent_package, disk_error

T = TypeVar("T")


def from_json(kind: type[T], tree: object) -> T:
    """A tree of JSON as the dataclass that was written as it. Raises ValueError naming the field that does not fit."""
    known = {field.name for field in dataclasses.fields(cast(Any, kind))}
    if isinstance(tree, dict) and (unknown := sorted(set(map(str, cast(dict[Any, Any], tree))) - known)):
        raise ValueError(f"unknown field {unknown[0]!r}")
    try:
        return _adapter(kind).validate_python(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where or kind.__name__}: {first['msg']}, not {first['input']!r:.80}") from error


@functools.cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def trajectory_id(dataset: str, generation: int, prompt_id: str, sample_index: int) -> str:
    """32 hex digits that name one trajectory; a re-run of the stage makes the same ids."""
    key = "\x1f".join((dataset, str(generation), prompt_id, str(sample_index)))
    return xxhash.xxh3_128_hexdigest(key.encode())


def seed_of(*parts: str | int) -> int:
    """A 63-bit seed derived from `parts`, e.g. (experiment seed, trajectory id)."""
    return xxhash.xxh3_64_intdigest("\x1f".join(map(str, parts)).encode()) >> 1


def checksum(data: bytes | memoryview) -> str:
    """XXH3-128 of the bytes: it finds damage and truncation, at memory speed. It is no defence against forgery."""
    return "xxh3:" + xxhash.xxh3_128_hexdigest(data)


def text_hash(text: str) -> str:
    """SHA-256 of a text, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
"""By protocol: the extra that installs its file system."""
_EXCLUSIVE = frozenset({*EXTRAS, "memory"})
"""Protocols whose file systems create a file for one of several writers only: `mode="create"` is a conditional put."""
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}")


class Files:
    """Files under one root."""

    def __init__(self, root: str) -> None:
        self.root = root
        try:
            fs, base = url_to_fs(root, use_listings_cache=False)  # other processes write here too
        except ImportError as error:
            told = absent_package(error, EXTRAS.get(root.partition("://")[0], "all"), root)
            if told is None:
                raise
            raise told from error
        self.fs: Any = fs  # fsspec ships no types
        self.base = str(base).rstrip("/")
        self.is_local = isinstance(fs, LocalFileSystem)
        protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
        if not self.is_local and not protocols & _EXCLUSIVE:
            raise StoreError(
                f"{root}: {type(fs).__name__} does not promise that of two writers of a file one fails, so two runs "
                "could spoil each other's tables. Use a folder, s3://, gs:// or abfs://"
            )

    def join(self, *parts: str) -> str:
        """Path inside the root, for `fs`. Raises StoreError for a part that would leave it."""
        for part in "/".join(parts).split("/"):
            key, eq, value = part.partition("=")
            if not all(PART.fullmatch(p) for p in ([key, value] if eq else [part])) and not part.startswith("_"):
                raise StoreError(
                    f"{part!r} cannot name a folder of the store: letters, digits and . _ - @ only, no path separators"
                )
        return "/".join((self.base, *parts))

    def read_bytes(self, path: str) -> bytes:
        return self.fs.cat_file(path)

    def read_checked(self, path: str, size: int, expected: str) -> bytes:
        """The bytes of a file. Raises StoreError when it is gone or its size or checksum are not the expected ones."""
        try:
            data = self.read_bytes(path)
        except FileNotFoundError as error:
            raise StoreError(
                f"{path} is listed in the manifest but gone; restore it or run the stage again with --replace"
            ) from error
        found = checksum(data)
        if len(data) != size or found != expected:
            raise StoreError(
                f"{path} is damaged: {len(data)} bytes with {found}, the manifest says {size} with {expected}; "
                "restore it or run the stage again with --replace"
            )
        return data

    def write_atomic(self, path: str, data: bytes) -> None:
        """A reader sees the whole file or none: temp, fsync, rename (an object store's put is atomic by itself)."""
        if not self.is_local:
            self.fs.pipe_file(path, data)
            return
        with _temporary(Path(path), data) as temp:
            temp.replace(path)

    def create(self, path: str, data: bytes) -> None:
        """Like `write_atomic`, for a file that must not exist yet: of several callers at once, one succeeds.

        Raises FileExistsError. Object stores do it by a conditional put (If-None-Match).
        """
        if not self.is_local:
            try:
                self.fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                if not self._holds(path, data):
                    raise
            return
        with _temporary(Path(path), data) as temp:
            if not _link(temp, path):
                if Path(path).exists():
                    raise FileExistsError(path)
                temp.replace(path)

    def _holds(self, path: str, data: bytes) -> bool:
        """Whether the file that is there is the one just written: the client puts again when the answer to a put is
        lost."""
        try:
            return self.read_bytes(path) == data
        except FileNotFoundError:
            return False

    def copy(self, source: str, target: str) -> None:
        """Copy a file within the store. Local files are linked: shards are replaced, never changed in place."""
        if not self.is_local:
            self.fs.cp_file(source, target)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).unlink(missing_ok=True)
        if not _link(source, target):
            shutil.copyfile(source, target)

    def files(self, path: str) -> list[str]:
        """Paths in a folder, sorted; none for a folder that is not there."""
        return sorted(self.fs.ls(path, detail=False)) if self.fs.isdir(path) else []


def _link(source: str | Path, target: str) -> bool:
    """Make `target` another name of a file; False where the file system knows no hard links. Raises FileExistsError."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        return False
    return True


@contextmanager
def _temporary(target: Path, data: bytes) -> Generator[Path]:
    """A durable temporary file beside `target`, gone afterwards. Raises StoreError when the disk refuses it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = target.with_name(f"_tmp.{target.name}.{uuid.uuid4().hex}")
    try:
        with temp.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temp
    except FileExistsError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot write {target}: {error.strerror}; nothing was changed. Repair the disk and run the stage again"
        ) from error
    finally:
        temp.unlink(missing_ok=True)
    sync_folder(target.parent)


@contextmanager
def written(path: Path) -> Generator[None]:
    """For a library that writes to `path`: TbrmError where the disk refuses it, whatever the library raises."""
    try:
        yield
    except Exception as error:
        told = None if isinstance(error, TbrmError) else disk_error(error)
        if told is None:
            raise
        raise TbrmError(f"cannot write {path}: {told}") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in a local folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
