"""One writer a partition: a lock of the kernel on a local disk, a lease in an object store.

The kernel releases a lock when its process dies, however it dies. An object store has no such lock. There a writer
creates an object `_lock-000001` by a conditional put, of which one can succeed, and renews it from a thread. Another
writer may take the lease over once it has run out, or at once when its process on this machine is dead: by creating
the object of the next number, so that of several who try one succeeds. The clocks of writers may differ by less than
`LEASE_S`. Even two writers that both believe to hold the lease cannot both commit: the manifest is created by a
conditional put.
"""

import errno
import fcntl
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.store.files import Files

_OWNER_ONLY = 0o600
"""Who can open a file, even for reading, can lock it: another user must not be able to keep the writers out."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
LEASE_S = 300.0
_exclusive_roots = set[str]()
"""Roots in object stores whose server was seen to refuse a second creation."""


@contextmanager
def exclusive(folder: str) -> Generator[None]:
    """Hold the folder's lock. Raises StoreError naming the process that holds it already."""
    with locked(f"{folder}/_lock", wait=False) as handle:
        with _named_errors(folder):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield


@contextmanager
def locked(path: str, wait: bool = True) -> Generator[int]:
    """Hold the lock of a file; gives its descriptor. Without `wait` StoreError names the process that holds it.

    File systems of some clusters have no locks. There a second file beside it is the lock: a process that was killed
    leaves it, and the next one on the same machine takes it over.
    """
    handle = _open_lock(path)
    try:
        with ExitStack() as held:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise _held(path, _holder(handle)) from error
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise StoreError(f"cannot lock {path}: {error.strerror}") from error
                held.enter_context(_by_existence(path, handle, wait))
            yield handle
    finally:
        os.close(handle)


def written_by(store: Files, folder: str) -> str | None:
    """Who holds the folder's lock or lease now, as far as this machine can see. No lock is touched."""
    here = os.uname().nodename
    if not store.is_local:
        held = next((found for found in _leases(store, folder).values() if not _abandoned(found)), None)
        return f"process {held['pid']} on {held['host']}" if held else None
    path = Path(folder, "_lock")
    if not path.is_file():
        return None
    writer = path.read_text(encoding="utf-8", errors="replace").strip()
    return writer if writer == f"process {_locked_by(path.stat().st_ino)} on {here}" else None


@contextmanager
def _by_existence(path: str, handle: int, wait: bool) -> Generator[None]:
    from filelock import SoftFileLock, Timeout

    lock = SoftFileLock(f"{path}.held", timeout=-1 if wait else 0, mode=_OWNER_ONLY)
    try:
        lock.acquire()
    except Timeout as error:
        remedy = f"This file system has no locks: if that process is gone, delete {lock.lock_file}"
        raise _held(path, _writer(handle) or "another process", remedy) from error
    try:
        yield
    finally:
        lock.release()


def _held(path: str, holder: str, remedy: str = "") -> StoreError:
    told = f"{Path(path).parent} is being written by {holder}; wait for it or stop it, then run this again"
    return StoreError(f"{told}. {remedy}" if remedy else told)


def _open_lock(path: str) -> int:
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
    writer = _writer(handle)
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


def _writer(handle: int) -> str:
    return os.pread(handle, 64, 0).decode(errors="replace").strip()


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
    token = uuid.uuid4().hex
    own = _acquire(store, folder, token)
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(store, folder, own, token, stop), daemon=True, name="lease")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for number, found in _leases(store, folder).items():
            if number == own or (number < own and _abandoned(found)):
                store.fs.rm_file(_place(folder, number))


def _acquire(store: Files, folder: str, token: str) -> int:
    """The number of the lease that this process now holds."""
    while True:
        before = _leases(store, folder)
        for found in before.values():
            if not _abandoned(found):
                raise _taken(folder, found)
        own = max(before, default=0) + 1
        try:
            store.create(_place(folder, own), _lease(token))
        except FileExistsError:
            continue  # another one was faster: it is named in the next round
        _check_exclusive(store, _place(folder, own))
        # A lease made meanwhile under another number, after a slow look at those before: one of the two at least sees
        # the other and gives way.
        others = {number: found for number, found in _leases(store, folder).items() if number != own}
        rival = next((found for number, found in others.items() if number > own or not _abandoned(found)), None)
        if rival is None:
            return own
        store.fs.rm_file(_place(folder, own))
        raise _taken(folder, rival)


def _check_exclusive(store: Files, path: str) -> None:
    """Raise StoreError where the server writes over a file that is there although it is asked not to; once a root."""
    if store.root in _exclusive_roots:
        return
    try:
        store.fs.pipe_file(path, b"", mode="create")
    except FileExistsError:
        _exclusive_roots.add(store.root)
        return
    store.fs.rm_file(path)
    raise StoreError(
        f"{store.root}: its server ignores If-None-Match, so two runs could spoil each other's tables; nothing was "
        "written. Use a folder, or an object store that has conditional writes"
    )


def _taken(folder: str, found: dict[str, Any]) -> StoreError:
    left = max(0.0, found["expires"] - time.time())
    return StoreError(
        f"{folder} is being written by process {found['pid']} on {found['host']}; wait for it or stop it, then run "
        f"this again (a lease that nobody renews ends in {left:.0f} s)"
    )


def _renew(store: Files, folder: str, own: int, token: str, stop: threading.Event) -> None:
    while not stop.wait(LEASE_S / 3):
        if max(_leases(store, folder), default=own + 1) != own:
            return  # another writer took the lease over after a long pause; the commit will say so
        store.write_atomic(_place(folder, own), _lease(token))


def _place(folder: str, number: int) -> str:
    return f"{folder}/_lock-{number:06d}"


def _leases(store: Files, folder: str) -> dict[int, dict[str, Any]]:
    """What each lease of the folder says, by its number."""
    numbers = [int(path[-6:]) for path in store.files(folder) if re.search(r"/_lock-\d{6}$", path)]
    found = ((number, _read(store, _place(folder, number))) for number in sorted(numbers))
    return {number: lease for number, lease in found if lease is not None}


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
