"""One writer a partition. The kernel releases a local lock when its process dies, however it dies."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import StoreError


@contextmanager
def exclusive(folder: str) -> Generator[None]:
    """Hold the folder's lock. Raises StoreError naming the process that holds it already."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    handle = os.open(f"{folder}/_lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 64, 0).decode(errors="replace").strip() or "another process"
            raise StoreError(
                f"{folder} is being written by {holder}; wait for it or stop it, then run this again"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield
    finally:
        os.close(handle)
