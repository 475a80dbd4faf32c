"""One writer a partition where no kernel keeps locks: a lease object, renewed while its holder lives.

An object store has no lock that dies with its process. A writer therefore creates `_lock` by a conditional put, renews
it from a thread, and another may take it over once it has run out, or at once when its process on this machine is dead.
Clocks of writers may differ by less than `LEASE_S`. Even two writers that both believe to hold it cannot both commit:
the manifest is created by a conditional put as well.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import StoreError

if TYPE_CHECKING:
    from pipeline.store.files import Store

LEASE_S = 300.0
_SETTLE_S = 0.2


@contextmanager
def leased(store: "Store", folder: str) -> Generator[None]:
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


def _acquire(store: "Store", folder: str, path: str, token: str) -> None:
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
            time.sleep(_SETTLE_S)  # of several that take it over at once, the last one has it
        found = _read(store, path)
        if found and found["token"] == token:
            return


def _renew(store: "Store", path: str, token: str, stop: threading.Event) -> None:
    while not stop.wait(LEASE_S / 3):
        found = _read(store, path)
        if found is None or found["token"] != token:
            return  # taken over after a pause longer than the lease; the commit will say so
        store.write_atomic(path, _lease(token))


def _lease(token: str) -> bytes:
    holder = {"token": token, "pid": os.getpid(), "host": os.uname().nodename, "expires": time.time() + LEASE_S}
    return json.dumps(holder).encode()


def _read(store: "Store", path: str) -> dict[str, Any] | None:
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
