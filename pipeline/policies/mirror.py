"""Policies of a store that is no local folder: weights are read by memory map, so each machine keeps a mirror of them.

Tables are read from the object store as they are. A policy folder is uploaded once it is finished, with `policy.json`
last, and fetched where it is used. Checkpoints of a training under way stay in the mirror of the machine that trains.
"""

import fcntl
import os
import shutil
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.store import Store, text_hash
from pipeline.store.locks import open_lock

MARK = "policy.json"
"""The file that completes a policy folder; it names the hash of the others."""


def local_root(store: Store) -> Path:
    """Local folder of the store's policies: the store itself, or this machine's mirror of it in the user's cache."""
    if store.is_local:
        return Path(store.base)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tbrm" / text_hash(store.root)[:16]


def upload(store: Store, folder: Path) -> None:
    """Put a finished folder of the mirror into the store; a folder that was there is kept beside it.

    A second call changes nothing.
    """
    if store.is_local or _same(store, folder):
        return
    target = _remote(store, folder)
    if before := store.files(target):
        aside = f"{target}.replaced-{text_hash(store.read_bytes(f'{target}/{MARK}').decode())[:12]}"
        for path in before:
            store.copy(path, f"{aside}/{path.rsplit('/', 1)[-1]}")
        # The mark goes first and comes last: a folder without it is not whole.
        for path in sorted(before, key=lambda path: not path.endswith(f"/{MARK}")):
            store.fs.rm_file(path)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == MARK):
        store.fs.put_file(str(path), f"{target}/{path.name}")


def fetch(store: Store, folder: Path) -> Path:
    """Bring `folder` of the mirror up to date with the store; a folder that the store does not have stays as it is.

    Where several processes ask at once, one downloads and the others wait for it. A process that was killed meanwhile
    leaves a partial folder, which the next one deletes.
    """
    if store.is_local or not store.fs.exists(f"{_remote(store, folder)}/{MARK}") or _same(store, folder):
        return folder
    handle = open_lock(str(folder.with_name(f"_{folder.name}.lock")))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return folder if _same(store, folder) else _download(store, folder)
    finally:
        os.close(handle)


def _download(store: Store, folder: Path) -> Path:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in store.files(_remote(store, folder)):
        store.fs.get_file(path, str(partial / path.rsplit("/", 1)[-1]))
    if folder.exists():  # it was trained here and may not be in the store yet: it is kept under another name
        mark = folder / MARK
        named = text_hash(mark.read_text(encoding="utf-8"))[:12] if mark.is_file() else "unfinished"
        aside = folder.with_name(f"{folder.name}.replaced-{named}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    return partial.rename(folder)


def _same(store: Store, folder: Path) -> bool:
    mark, remote = folder / MARK, f"{_remote(store, folder)}/{MARK}"
    return mark.is_file() and store.fs.exists(remote) and mark.read_bytes() == store.read_bytes(remote)


def _remote(store: Store, folder: Path) -> str:
    root = local_root(store)
    if not folder.is_relative_to(root):
        raise StoreError(f"{folder} lies outside of {root}, the local copy of {store.root}")
    return "/".join((store.base, *folder.relative_to(root).parts))
