"""One writer a partition. The kernel releases a local lock when its process dies, however it dies."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import StoreError

_OWNER_ONLY = 0o600
"""Whoever can open a file can lock it, for reading too: nobody else may keep the writers out."""


@contextmanager
def exclusive(folder: str) -> Generator[None]:
    """Hold the folder's lock. Raises StoreError naming the process that holds it already."""
    handle = open_lock(f"{folder}/_lock")
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{folder} is being written by {_holder(handle)}; wait for it or stop it, then run this again"
            ) from error
        with _named_errors(folder):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield
    finally:
        os.close(handle)


def open_lock(path: str) -> int:
    """Descriptor of a file to lock, made with its folder where it is missing. Raises StoreError where it cannot be."""
    with _named_errors(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _OWNER_ONLY)
        found = os.fstat(handle)
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():  # of an earlier version
            os.fchmod(handle, _OWNER_ONLY)
        return handle


@contextmanager
def _named_errors(path: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; nothing was changed") from error


def _holder(handle: int) -> str:
    """Who holds the lock, as the kernel says; the file only says who held it last as a writer."""
    writer = os.pread(handle, 64, 0).decode(errors="replace").strip()
    here = os.uname().nodename
    pid = _locked_by(os.fstat(handle).st_ino)
    if pid is None:
        # The kernel lists locks of this machine only: on a shared disk the file may name a writer of another one.
        return writer if writer and not writer.endswith(f" on {here}") else "a process that cannot be seen from here"
    told = f"process {pid} on {here}"
    if told == writer:
        return told
    with suppress(OSError):
        told += f" ({Path(f'/proc/{pid}/comm').read_text(encoding='utf-8', errors='replace').strip()})"
    return told


def _locked_by(inode: int) -> int | None:
    """Process that holds a lock of the file, by /proc/locks: `1: FLOCK ADVISORY WRITE 4711 fe:00:2842754 0 EOF`."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode) and int(fields[4]) > 0:
            return int(fields[4])
    return None
