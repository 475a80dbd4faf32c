"""What a trial is judged by: the final store, what was committed before the fault, and the identities in it."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

from pipeline.errors import StoreError, TbrmError
from pipeline.policies.refs import POLICIES, PolicyRef, check_undamaged, read_policy_json, resolve_published
from pipeline.store import Partition, Store, open_store
from pipeline.store.partition import MANIFEST, Manifest, parse_manifest
from tests.faults.experiment import NAME
from trainer.stages.policy_folder import LOGS, TABLE

_POLICIES = ("base_policy", POLICIES, TABLE)


def audit(root: str) -> dict[str, object]:
    """The store as its readers see it: `digest` (name -> hash), `damage` (messages), `duplicates` (trajectory ids)."""
    store = open_store(root)
    digest: dict[str, str] = {}
    damage: list[str] = []
    seen: set[str] = set()
    duplicates = 0
    for partition in _partitions(store):
        try:
            manifest = partition.manifest()
            digest[partition.name] = manifest.hash
            for index, shard in enumerate(manifest.shards):
                rows = partition.read_shard(index, manifest=manifest)
                digest[f"{partition.name}/{shard.file}"] = shard.checksum
                if partition.table == "rollouts":
                    ids = [str(row) for row in rows["trajectory_id"].to_pylist()]
                    duplicates += len(ids) - len(set(ids) - seen)
                    seen.update(ids)
        except StoreError as error:
            damage.append(str(error))
    for policy in _policies(store):
        try:
            check_undamaged(policy())
        except TbrmError as error:
            damage.append(str(error))
    for folder in _policy_folders(store):
        for path in store.files(folder):
            name = path.rsplit("/", 1)[-1]
            where = path.removeprefix(f"{store.base}/")
            data = store.read_bytes(path)
            if name == MANIFEST:
                try:
                    digest[where] = parse_manifest(data.decode(errors="replace"), path).hash
                except StoreError as error:
                    damage.append(str(error))
            elif name not in LOGS and not name.startswith(("_lock", "_tmp.")):  # of a killed writer, unread
                digest[where] = hashlib.sha256(data).hexdigest()
    return {"digest": digest, "damage": damage, "duplicates": duplicates}


def committed(root: str) -> dict[str, str]:
    """Hash of every file that a readable manifest lists, and of the manifest itself, by path."""
    store = open_store(root)
    found: dict[str, str] = {}
    for partition in _partitions(store):
        found |= _listed(store, partition.path)
    for folder in _policy_folders(store):
        found |= _listed(store, folder)
    return found


def changed(before: dict[str, str], root: str, damaged: str, remade: bool) -> list[str]:
    """Files of `before` that are gone or different now, without the one that the fault itself damaged.

    A partition that was `remade` on request has a new manifest, of the same content: it says how long that took.
    """
    store = open_store(root)
    asked = [path for path in before if path != damaged and not (remade and path.endswith(MANIFEST))]
    return [path for path in asked if _sha(store, path) != before[path]]


def _listed(store: Store, folder: str) -> dict[str, str]:
    manifest = _manifest(store, f"{folder}/{MANIFEST}")
    if manifest is None:
        return {}
    files = [f"{folder}/{name}" for name in (MANIFEST, *(shard.file for shard in manifest.shards))]
    return {path: _sha(store, path) for path in files}


def _manifest(store: Store, path: str) -> Manifest | None:
    try:
        return parse_manifest(store.read_bytes(path).decode(), path)
    except (FileNotFoundError, UnicodeDecodeError, StoreError):
        return None


def _sha(store: Store, path: str) -> str:
    try:
        return hashlib.sha256(store.read_bytes(path)).hexdigest()
    except FileNotFoundError:
        return "gone"


def _partitions(store: Store) -> Iterator[Partition]:
    for dataset in (NAME, f"logged/{NAME}_behaviour"):
        for table in store.tables(dataset):
            for generation in store.generations(dataset, table):
                yield store.partition(dataset, table, generation)


def _policies(store: Store) -> Iterator[Callable[[], PolicyRef]]:
    """Published policies as stages find them, and those in the store's folders by their own `policy.json`."""
    for generation in range(len(store.files(store.join(NAME, "policy")))):
        yield partial(resolve_published, store, NAME, generation)
    for folder in _policy_folders(store) if store.is_local else ():
        if not folder.startswith((store.join(NAME, "policy") + "/", store.join(NAME, TABLE) + "/")):
            yield lambda folder=folder: PolicyRef(read_policy_json(folder)["policy_id"], folder, 0)


def _policy_folders(store: Store) -> list[str]:
    tops = [store.join(NAME, name) for name in (*_POLICIES, "policy")]
    inside = [path for top in tops for path in store.files(top) if store.fs.isdir(path)]
    return [path for path in inside if "." not in path.rsplit("/", 1)[-1]]
