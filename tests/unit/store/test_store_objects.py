"""The store where no kernel keeps locks: leases, conditional puts, on an object store that lies in memory."""

import json
import os
import time
import uuid
from collections.abc import Generator
from typing import Any

import pytest

from pipeline.errors import StoreError
from pipeline.store import Partition, Store, locks, open_store
from tests.unit.store.test_store_kills import CONFIG, SHARDS, shard, write


@pytest.fixture
def store() -> Generator[Store]:
    root = f"/tbrm-{uuid.uuid4().hex}"
    found = open_store(f"memory:/{root}")
    assert not found.is_local
    yield found
    found.fs.rm(root, recursive=True)


@pytest.fixture
def partition(store: Store) -> Partition:
    store.fs.mkdirs(store.base)
    return store.partition("exp", "rollouts", 0)


def holder(partition: Partition) -> dict[str, Any]:
    return json.loads(partition.store.read_bytes(f"{partition.path}/_lock-000001"))


def leave(partition: Partition, number: int = 1, **fields: Any) -> None:
    """A lease that some writer left behind; by default one of a machine elsewhere that still holds it."""
    given = {"token": "other", "pid": 1, "host": "elsewhere", "expires": time.time() + locks.LEASE_S}
    partition.store.write_atomic(f"{partition.path}/_lock-{number:06d}", json.dumps(given | fields).encode())


def names(partition: Partition) -> list[str]:
    return [path.rsplit("/", 1)[-1] for path in partition.store.files(partition.path)]


def test_a_partition_is_written_read_and_replaced(partition: Partition) -> None:
    assert write(partition) == [0, 1, 2]
    assert names(partition) == ["_manifest.json", *(f"shard-0000{index}.parquet" for index in range(SHARDS))]
    assert partition.read_shard(2).equals(shard(2))
    first = partition.manifest().hash
    with pytest.raises(StoreError, match="already committed with another configuration"):
        write(partition, "another")
    write(partition, "another", salt=1, replace=True)
    assert partition.manifest().hash != first
    kept = [path for path in partition.store.files(partition.path.rpartition("/")[0]) if ".replaced-" in path]
    assert len(partition.store.files(kept[0])) == SHARDS + 1
    assert partition.store.generations("exp", "rollouts") == [0]


def test_a_lease_names_its_holder_and_goes_with_it(partition: Partition) -> None:
    with partition.writer(CONFIG, {}):
        found = holder(partition)
        assert (found["pid"], found["host"]) == (os.getpid(), os.uname().nodename)
        assert found["expires"] == pytest.approx(time.time() + 300, abs=60)
        with pytest.raises(StoreError, match=rf"is being written by process {os.getpid()} on .*ends in (2\d\d|300) s"):
            write(partition, "another")
        assert holder(partition) == found
    assert not [name for name in names(partition) if "_lock" in name]


def test_a_lease_held_elsewhere_is_respected_until_it_ends(partition: Partition) -> None:
    leave(partition)
    with pytest.raises(StoreError, match="by process 1 on elsewhere"):
        write(partition)
    assert holder(partition)["token"] == "other"
    leave(partition, expires=time.time() - 1)
    assert write(partition) == [0, 1, 2]


def test_a_dead_process_of_this_machine_holds_nothing(partition: Partition) -> None:
    here = os.uname().nodename
    leave(partition, host=here, pid=os.getpid())
    with pytest.raises(StoreError, match="is being written by"):
        write(partition)
    leave(partition, host=here, pid=2**22 + 1)  # above the largest id that Linux gives
    assert write(partition) == [0, 1, 2]


def test_a_process_of_another_user_is_alive(partition: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_allowed(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", not_allowed)
    leave(partition, host=os.uname().nodename, pid=1)
    with pytest.raises(StoreError, match="is being written by"):
        write(partition)


def test_a_held_lease_is_renewed_long_before_it_ends(partition: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE_S", 0.6)
    with partition.writer(CONFIG, {}):
        first = holder(partition)
        while (renewed := holder(partition)) == first:
            assert time.time() < first["expires"], "it ran out before it was renewed"
        assert renewed["token"] == first["token"]
        assert first["expires"] < renewed["expires"] <= time.time() + 0.6


def test_who_took_a_lease_over_keeps_it(partition: Partition) -> None:
    with partition.writer(CONFIG, {}):
        leave(partition, number=2)
    assert names(partition) == ["_lock-000002"], "the slow holder deletes only its own lease"
    with pytest.raises(StoreError, match="by process 1 on elsewhere"):
        write(partition)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_lease_made_while_another_one_looks_is_seen(
    partition: Partition, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whatever number the rival takes: that of the one left behind, which it deleted and made anew, or a later one."""
    leave(partition, expires=0.0)
    create = Store.create

    def after_a_rival(store: Store, path: str, data: bytes) -> None:
        leave(partition, number=number)
        create(store, path, data)

    monkeypatch.setattr(Store, "create", after_a_rival)
    with pytest.raises(StoreError, match="by process 1 on elsewhere"):
        write(partition)
    assert f"_lock-{number:06d}" in names(partition)


def test_a_server_that_writes_over_what_is_there_is_refused(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = partition.store.fs.pipe_file

    def put_over(path: str, data: bytes, mode: str = "overwrite") -> None:
        del mode
        put(path, data)

    monkeypatch.setattr(partition.store.fs, "pipe_file", put_over)
    with pytest.raises(StoreError, match=r"ignores If-None-Match.*nothing was written"):
        write(partition)
    assert names(partition) == []


@pytest.mark.parametrize("root", ["http://127.0.0.1/data", "simplecache::memory://data"])
def test_a_location_that_lets_two_create_a_file_is_refused(root: str) -> None:
    with pytest.raises(StoreError, match=r"does not promise .* Use a folder, s3://"):
        open_store(root)


def test_of_two_who_believe_to_hold_it_one_commits(partition: Partition) -> None:
    with partition.writer(CONFIG, {}) as slow:
        for index in range(SHARDS):
            slow.write(index, shard(index))
        partition.store.fs.rm_file(f"{partition.path}/_lock-000001")
        with partition.writer(CONFIG, {}) as late:
            assert all(late.is_done(index) for index in range(SHARDS))
            slow.commit(SHARDS)
            with pytest.raises(StoreError, match="committed by another writer meanwhile"):
                late.commit(SHARDS, {"seconds": 1.0})
    assert partition.manifest().stats == {}


def test_a_put_that_reached_the_store_twice_is_ones_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{store.base}/one"
    store.create(path, b"mine")
    store.create(path, b"mine")  # as a client does whose first answer was lost
    with pytest.raises(FileExistsError):
        store.create(path, b"theirs")
    assert store.read_bytes(path) == b"mine"

    def lost(*_: Any, **__: Any) -> None:
        raise FileExistsError

    monkeypatch.setattr(store.fs, "pipe_file", lost)  # deleted again before it could be looked at
    with pytest.raises(FileExistsError):
        store.create(f"{store.base}/gone", b"mine")


def test_copies_are_independent_objects(store: Store) -> None:
    one, two = (f"{store.base}/{name}" for name in ("one", "two"))
    store.write_atomic(one, b"first")
    store.copy(one, two)
    store.write_atomic(one, b"second")
    assert (store.read_bytes(one), store.read_bytes(two)) == (b"second", b"first")
