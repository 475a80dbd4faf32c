"""The one way in which stages write a partition: skipped, resumed, committed."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import StoreError
from pipeline.run.resumable import Stage, Work, each, whole, write_partition
from pipeline.store import Partition, Store, open_store


def rows(index: int) -> pa.Table:
    return pa.table({"file": ["log"] * 2, "row": [index, index], "field": ["x", "y"], "reason": ["bad", "worse"]})


def stage_of(partition: Partition, made: list[int], dies_at: int | None = None, cut: str = "2") -> Stage:
    def make(index: int) -> pa.Table:
        if index == dies_at:
            raise InterruptedError
        made.append(index)
        return rows(index)

    work = Work([2, 2, 2], each(make), lambda writer: {"rows": writer.read(2).num_rows})
    return Stage("q", partition, "key", {"parent": "hash"}, lambda: work, "rows", cut=cut)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


@pytest.fixture
def partition(store: Store) -> Partition:
    return store.partition("x", "quarantine", 0)


def test_an_interrupted_run_is_gone_on_with_at_the_first_missing_shard(
    store: Store, partition: Partition, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []
    with pytest.raises(InterruptedError):
        write_partition(store, stage_of(partition, made, dies_at=1), None)
    assert (made, partition.is_committed()) == ([0], False)
    capsys.readouterr()
    manifest, skipped = write_partition(store, stage_of(partition, made), None)
    assert (made, skipped, manifest.rows, manifest.config_hash) == ([0, 1, 2], False, 6, "key-2")
    assert (dict(manifest.stats), dict(manifest.parents)) == ({"rows": 2}, {"parent": "hash"})
    assert "q[0]: 6/6 rows" in capsys.readouterr().err


def test_what_is_there_is_left_however_it_is_cut_and_replaced_only_when_asked(
    store: Store, partition: Partition
) -> None:
    made: list[int] = []
    first, _ = write_partition(store, stage_of(partition, made), None)
    assert write_partition(store, stage_of(partition, made, dies_at=0, cut="5"), None) == (first, True)
    other = Stage("q", partition, "another key", {}, lambda: whole([rows(0)]))
    with pytest.raises(StoreError, match="--replace"):
        write_partition(store, other, None)
    again, skipped = write_partition(store, stage_of(partition, made), None, replace=True, started=0.0)
    assert (made, skipped, again.hash, sorted(again.stats)) == ([0, 1, 2] * 2, False, first.hash, ["rows", "seconds"])


def test_tables_that_are_here_already_take_the_place_of_an_interrupted_run(
    store: Store, partition: Partition, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InterruptedError):
        write_partition(store, stage_of(partition, [], dies_at=1, cut=""), None)
    capsys.readouterr()
    write_partition(store, Stage("q", partition, "key", {}, lambda: whole([rows(7)], {"bad": 2})), None)
    assert partition.read_shard(0, ["row"])["row"].to_pylist() == [7, 7]
    assert capsys.readouterr().err == ""


def test_what_another_process_commits_meanwhile_is_left_as_well(store: Store, partition: Partition) -> None:
    made: list[int] = []
    ours = stage_of(partition, made)

    def work() -> Work:  # takes a while, as loading a model does; the other process is quicker
        write_partition(store, stage_of(partition, []), None)
        return ours.work()

    manifest, skipped = write_partition(store, replace(ours, work=work), None)
    assert (made, skipped, manifest.rows) == ([], True, 6)


def test_what_another_process_commits_meanwhile_with_other_settings_is_an_error(
    store: Store, partition: Partition
) -> None:
    def work() -> Work:
        write_partition(store, Stage("q", partition, "another key", {}, lambda: whole([rows(0)])), None)
        return stage_of(partition, []).work()

    with pytest.raises(StoreError, match="already committed"):
        write_partition(store, replace(stage_of(partition, []), work=work), None)
