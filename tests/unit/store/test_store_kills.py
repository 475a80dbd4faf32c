"""Write, be killed anywhere, resume, read: the same rows and the same bytes as an uninterrupted run."""

import errno
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.store import SCHEMAS, Partition, open_store
from tests.unit.replay.replay_store import rollout_rows

SHARDS = 3
CONFIG = "configuration"
DURABLE = ("link", "fsync", "rename", "replace", "unlink", "remove")
"""Calls of `os` that the store's promises rest on; a process may die before any of them."""


class Killed(BaseException):
    """Like SIGKILL: nothing between here and the test handles it."""


@contextmanager
def killed_before_call(number: int) -> Generator[None]:
    """The process dies before durable call `number` (0, 1, …) and nothing after it happens, clean-up included."""
    calls = 0

    def counted(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if calls >= number:
                raise Killed
            calls += 1
            return call(*args, **kwargs)

        return wrapped

    with mock.patch.multiple(os, **{name: counted(getattr(os, name)) for name in DURABLE}):
        yield


def shard(index: int, salt: int = 0) -> pa.Table:
    return pa.Table.from_pylist(rollout_rows("exp", 0, index, 3, 2, salt), SCHEMAS["rollouts"])


def write(partition: Partition, config: str = CONFIG, shards: int = SHARDS, salt: int = 0, **options: Any) -> list[int]:
    """What every stage does; returns the shards that were really written."""
    written: list[int] = []
    with partition.writer(config, {}, **options) as writer:
        for index in range(shards):
            if not writer.is_done(index):
                writer.write(index, shard(index, salt))
                written.append(index)
        writer.commit(shards)
    return written


def files(partition: Partition) -> dict[str, bytes]:
    """What a reader of the folder sees; names that start with _ or . are none of its business."""
    paths = sorted(Path(partition.path).glob("[!_.]*"))
    return {path.name: path.read_bytes() for path in paths} | {"manifest": str(partition.manifest().hash).encode()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    partition = open_store(str(tmp_path_factory.mktemp("whole"))).partition("exp", "rollouts", 0)
    assert write(partition) == list(range(SHARDS))
    return files(partition)


@settings(max_examples=40, deadline=None)
@given(kills=st.lists(st.integers(0, 45), min_size=1, max_size=4))
def test_killed_anywhere_and_resumed_ends_with_the_same_bytes(
    uninterrupted: dict[str, bytes], kills: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        partition = open_store(root).partition("exp", "rollouts", 0)
        for number in kills:
            try:
                with killed_before_call(number):
                    write(partition)
            except (Killed, StoreError):  # StoreError: an earlier run committed before it was killed
                if partition.is_committed():
                    break
        if not partition.is_committed():
            write(partition)
        assert files(partition) == uninterrupted
        assert [rows.to_pylist() for _, rows in partition.iter_shards()] == [
            shard(i).to_pylist() for i in range(SHARDS)
        ]


@settings(max_examples=40, deadline=None)
@given(number=st.integers(0, 60))
def test_a_reader_sees_the_old_partition_or_the_new_one_or_none(number: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        partition = open_store(root).partition("exp", "rollouts", 0)
        write(partition)
        old = partition.manifest().hash
        try:
            with killed_before_call(number):
                write(partition, "another", salt=1, replace=True)
        except Killed:
            pass
        if partition.is_committed():
            rows = [table.to_pylist() for _, table in partition.iter_shards()]
            salt = 0 if partition.manifest().hash == old else 1
            assert rows == [shard(i, salt).to_pylist() for i in range(SHARDS)]
        if not partition.is_committed() or partition.manifest().hash != old:
            kept = [path for path in Path(root).rglob("*.replaced-*") if (path / "_manifest.json").exists()]
            assert len(list(kept[0].glob("shard-*"))) == SHARDS  # nothing of the old one is lost on the way
            write(partition, "another", salt=1, replace=True)
            assert partition.manifest().rows == shard(0).num_rows * SHARDS


def test_a_finished_shard_that_rotted_before_the_commit_is_written_again(tmp_path: Path) -> None:
    partition = open_store(str(tmp_path)).partition("exp", "rollouts", 0)
    with partition.writer(CONFIG, {}) as writer:
        writer.write(0, shard(0))
    path = Path(partition.path) / "shard-00000.parquet"
    data = bytearray(path.read_bytes())
    data[200] ^= 1  # inside a page, where Parquet's own reader would not look twice
    path.write_bytes(data)
    assert write(partition) == [0, 1, 2]
    assert partition.read_shard(0).equals(shard(0))


def test_shards_of_a_longer_interrupted_run_do_not_stay_behind(tmp_path: Path) -> None:
    partition = open_store(str(tmp_path)).partition("exp", "rollouts", 0)
    with partition.writer("another", {}) as writer:
        for index in range(5):
            writer.write(index, shard(index))
    write(partition, shards=2)
    assert sorted(files(partition)) == ["manifest", "shard-00000.parquet", "shard-00001.parquet"]
    assert {path.name for path in Path(partition.path).glob("_*")} == {"_manifest.json", "_lock"}


def test_a_file_system_without_hard_links_serves_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    partition = open_store(str(tmp_path)).partition("exp", "rollouts", 0)
    write(partition)
    write(partition, "another", salt=1, replace=True)
    assert len(list(tmp_path.rglob("*.replaced-*/shard-*"))) == SHARDS
    with pytest.raises(FileExistsError):
        partition.store.create(f"{partition.path}/_manifest.json", b"")
