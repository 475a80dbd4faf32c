"""One writer a partition: a lock of the kernel on a local disk, a lease in an object store.

The kernel releases a lock when its process dies, however it dies. An object store has no such lock. A writer creates
the object `_lock` there by a conditional put and renews it from a thread; another writer may take it over once it has
run out, or at once when its process on this machine is dead. The clocks of writers may differ by less than `LEASE_S`.
Even two writers that both believe to hold the lease cannot both commit: the manifest is created by a conditional put.
"""

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.store.files import Files

_OWNER_ONLY = 0o600
"""Who can open a file, even for reading, can lock it: another user must not be able to keep the writers out."""
LEASE_S = 300.0
_SETTLE_S = 0.2


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


def written_by(store: Files, folder: str) -> str | None:
    """Who holds the folder's lock or lease now, as far as this machine can see. No lock is touched."""
    here = os.uname().nodename
    if not store.is_local:
        found = _read(store, f"{folder}/_lock")
        return f"process {found['pid']} on {found['host']}" if found and not _abandoned(found) else None
    path = Path(folder, "_lock")
    if not path.is_file():
        return None
    writer = path.read_text(encoding="utf-8", errors="replace").strip()
    return writer if writer == f"process {_locked_by(path.stat().st_ino)} on {here}" else None


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


@contextmanager
def leased(store: Files, folder: str) -> Generator[None]:
    """Hold the folder's lease. Raises StoreError naming the process that holds it already."""
    path, token = f"{folder}/_lock", uuid.uuid4().hex
    _acquire(store, folder, path, token)
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(store, path, token, stop), daemon=True, name="lease")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if (found := _read(store, path)) and found["token"] == token:
            store.fs.rm_file(path)


def _acquire(store: Files, folder: str, path: str, token: str) -> None:
    while True:
        try:
            store.create(path, _lease(token))
        except FileExistsError:
            found = _read(store, path)
            if found is None:
                continue  # released between the two calls
            if not _abandoned(found):
                left = max(0.0, found["expires"] - time.time())
                raise StoreError(
                    f"{folder} is being written by process {found['pid']} on {found['host']}; wait for it or stop it, "
                    f"then run this again (a lease that nobody renews ends in {left:.0f} s)"
                ) from None
            store.write_atomic(path, _lease(token))
            time.sleep(_SETTLE_S)  # where several take it over at once, the last one to write has it
        found = _read(store, path)
        if found and found["token"] == token:
            return


def _renew(store: Files, path: str, token: str, stop: threading.Event) -> None:
    while not stop.wait(LEASE_S / 3):
        found = _read(store, path)
        if found is None or found["token"] != token:
            return  # another writer took the lease over after a long pause; the commit will say so
        store.write_atomic(path, _lease(token))


def _lease(token: str) -> bytes:
    holder = {"token": token, "pid": os.getpid(), "host": os.uname().nodename, "expires": time.time() + LEASE_S}
    return json.dumps(holder).encode()


def _read(store: Files, path: str) -> dict[str, Any] | None:
    try:
        return json.loads(store.read_bytes(path))
    except FileNotFoundError:
        return None


def _abandoned(found: dict[str, Any]) -> bool:
    if found["expires"] < time.time():
        return True
    if found["host"] != os.uname().nodename:
        return False
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
