"""What a store says of itself: names, listings, columns, identifiers, and who writes."""

import dataclasses
import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StoreError
from pipeline.store import (
    SCHEMAS,
    Manifest,
    Store,
    check_aligned,
    checksum,
    exclusive,
    locks,
    open_store,
    schema_of,
    seed_of,
    text_hash,
    trajectory_id,
)
from pipeline.store.partition import parse_manifest
from pipeline.store.schema import conform
from tests.unit.replay.replay_store import rollout_rows
from tests.unit.store.test_store_kills import CONFIG, SHARDS, shard, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_identifiers_are_the_same_on_every_machine_and_in_every_version() -> None:
    """Stored data sets name their rows by these: a change here orphans every label that was ever written."""
    assert trajectory_id("exp", 3, "p7", 1) == "cdd4bbf492480c8930eac26d346572bb"
    assert seed_of(5, "exp", 12) == 5981056954507246661
    assert checksum(b"tbrm") == "xxh3:8451de858a820b49b95f4bd02ebf0511"
    assert text_hash("tbrm") == "1515e78a4e239b928c42a4c34840a1b1a6d5ffbbe3a07c65a493c6b8dd9bfa07"
    assert 0 <= seed_of("any") < 2**63
    assert len({trajectory_id("a", g, p, s) for g in (0, 1) for p in ("p", "q") for s in (0, 1)}) == 8


@pytest.mark.parametrize("part", ["..", "a/../b", "a b", "", "-a", "a\\b", "generation=", "=3", "é", "a" * 129, ".a"])
def test_no_name_leaves_the_store(store: Store, part: str) -> None:
    with pytest.raises(StoreError, match="cannot name a folder of the store"):
        store.join("exp", part)


@pytest.mark.parametrize("part", ["a", "a.b-c_d@2", "logged/some_log", "generation=0003", "_manifest.json", "a" * 128])
def test_ordinary_names_are_places_below_the_root(store: Store, part: str) -> None:
    assert store.join("exp", part) == f"{store.base}/exp/{part}"


def test_a_store_lists_what_was_committed(store: Store) -> None:
    partitions = [
        ("exp", "rollouts", 10),
        ("exp", "rollouts", 2),
        ("second", "rewards@v2", 0),
        ("evaluated", "scores", 0),
    ]
    for dataset, table, generation in [*partitions, ("logged/theirs", "prompts", 0), ("logged/mine", "prompts", 0)]:
        with store.partition(dataset, table, generation).writer(CONFIG, {}) as writer:
            writer.commit(0)
    with store.partition("exp", "rollouts", 3).writer(CONFIG, {}):
        pass  # interrupted
    for folder in ("dagster_home", "exp/training_state", "exp/rollouts/generation=x", ".hidden"):
        Path(store.base, folder).mkdir(parents=True)
    stray = ("logged/my notes", "logged/.ipynb_checkpoints", "exp/rewards@v 2", "exp/rollouts/generation=1")
    for folder in (*stray, "exp/rollouts/generation=\u00b2", "exp/rollouts/generation=" + "9" * 20):
        Path(store.base, folder).mkdir(parents=True)
        Path(store.base, folder, "_manifest.json").write_text("{}")
    Path(store.base, "notes.txt").write_text("")
    assert store.generations("exp", "rollouts") == [2, 10]
    assert store.generations("exp", "rewards") == []
    assert store.datasets() == ["exp", "second", "logged/mine", "logged/theirs"]
    assert store.tables("exp") == ["rollouts"]
    assert store.tables("second") == ["rewards@v2"]
    assert open_store(f"{store.base}/absent").datasets() == []


def test_the_root_is_given_or_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TBRM_ROOT", str(tmp_path))
    assert open_store().base == str(tmp_path)
    assert open_store("/elsewhere/").base == "/elsewhere"
    monkeypatch.setenv("TBRM_ROOT", "")
    assert open_store().base == str(Path.cwd() / "data")


def test_rows_are_fitted_to_the_tables_columns() -> None:
    schema = schema_of("rewards@v3")
    given = {"trajectory_id": ["a"], "reward": [1], "status": ["ok"], "verifier": ["v"], "verifier_version": ["1"]}
    rows = conform("rewards", pa.table(given), "here")
    assert rows.schema == schema == SCHEMAS["rewards"]
    assert rows.slice(0, 1).to_pylist() == [
        {name: values[0] for name, values in given.items()}
        | dict.fromkeys(("extracted_answer", "detail", "components", "token_rewards"))
    ]
    for change, told in [
        ({"reward": None}, "here: column 'reward' is missing"),
        ({"reward": ["much"]}, "here: column 'reward' is not double"),
        ({"reward": pa.array([None], pa.float64())}, "here: column 'reward' has 1 nulls"),
        ({"rewards": [1.0]}, "here: unknown column 'rewards' for table 'rewards'"),
    ]:
        table = pa.table({name: column for name, column in (given | change).items() if column is not None})
        with pytest.raises(StoreError, match=told):
            conform("rewards", table, "here")
    with pytest.raises(StoreError, match="there is no table 'reward'"):
        schema_of("reward")


def test_reading_checks_the_index_and_keeps_the_order_of_columns(store: Store) -> None:
    partition = store.partition("exp", "rollouts", 0)
    with pytest.raises(StoreError, match=r"`tbrm rollouts … --generation 0`"):
        partition.manifest()
    with pytest.raises(StoreError, match=r"`tbrm ref-logprobs … --generation 2`"):
        store.partition("exp", "ref_logprobs@v2", 2).manifest()
    write(partition)
    columns = ["response_token_ids", "trajectory_id"]
    assert partition.read_shard(1, columns).equals(shard(1).select(columns))
    assert [index for index, _ in partition.iter_shards(columns)] == [0, 1, 2]
    assert all(rows.column_names == columns for _, rows in partition.iter_shards(columns))
    for index in (-1, SHARDS):
        with pytest.raises(StoreError, match=f"has {SHARDS} shards; there is no shard {index}"):
            partition.read_shard(index)
    with pytest.raises(StoreError, match="cannot be read as Parquet"):
        partition.read_shard(0, ["absent"])


def test_a_writer_reads_what_it_wrote_and_commits_no_gap(store: Store) -> None:
    partition = store.partition("exp", "rollouts", 0)
    with partition.writer(CONFIG, {"b": "2", "a": "1"}) as writer:
        writer.write(0, shard(0))
        writer.write(2, shard(2))
        assert writer.read(2, ["prompt_id"]).equals(shard(2).select(["prompt_id"]))
        assert [writer.is_done(index) for index in range(4)] == [True, False, True, False]
        with pytest.raises(StoreError, match=r"shard-00001\.parquet is missing"):
            writer.commit(3)
        assert not partition.is_committed()
        writer.write(1, shard(1))
        manifest = writer.commit(3, {"seconds": 2.5})
    assert manifest == partition.manifest()
    assert (manifest.rows, manifest.stats) == (18, {"seconds": 2.5})
    assert manifest.bytes == sum(path.stat().st_size for path in Path(partition.path).glob("shard-*"))
    assert list(manifest.parents) == ["a", "b"]
    assert [info.file for info in manifest.shards] == [f"shard-0000{index}.parquet" for index in range(3)]


def test_shards_of_another_configuration_are_written_again(store: Store) -> None:
    partition = store.partition("exp", "rollouts", 0)
    with partition.writer("earlier", {}) as writer:
        writer.write(0, shard(0, salt=1))
    assert write(partition) == [0, 1, 2]
    assert partition.read_shard(0).equals(shard(0))


def test_a_manifest_is_the_same_for_a_repeated_run_and_for_no_other(store: Store) -> None:
    write(store.partition("exp", "rollouts", 0))
    manifest = store.partition("exp", "rollouts", 0).manifest()
    tree = json.loads(manifest.to_json())

    def with_fields(**fields: Any) -> Manifest:
        return Manifest(**vars(manifest) | fields)

    assert with_fields(stats={"seconds": 9.0}, code_version="9").hash == manifest.hash
    for fields in ({"config_hash": "x"}, {"parents": {"p": "h"}}, {"generation": 1}, {"shards": manifest.shards[:2]}):
        assert with_fields(**fields).hash != manifest.hash
    assert parse_manifest(json.dumps(tree), "m") == manifest
    for change, told in [
        ({"schema_version": 2}, "has schema version 2; this code reads version 1"),
        ({"generation": 1}, "does not match its own hash"),
        ({"shards": None}, r"is torn \(shards: Input should be a valid tuple, not None\)"),
        (
            {"shards": [{**tree["shards"][0], "rows": "many"}]},
            r"is torn \(shards.0.rows: .*, not 'many'\)",
        ),
        ({"written_on": "paper"}, r"is torn \(unknown field 'written_on'\)"),
        ({"shards": [{**tree["shards"][0], "file": "../other"}]}, "names a file outside its folder"),
        ({"shards": [{**tree["shards"][0], "file": ".hidden"}]}, "names a file outside its folder"),
    ]:
        with pytest.raises(StoreError, match=told):
            parse_manifest(json.dumps(tree | change), "m")
    for torn in ("", "[]", "{", json.dumps({k: v for k, v in tree.items() if k != "hash"})):
        with pytest.raises(StoreError, match="is torn"):
            parse_manifest(torn, "m")


def test_the_manifest_names_what_wrote_the_shards_and_a_resume_across_versions_says_so(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    partition = store.partition("exp", "rollouts", 0)
    rows = pa.Table.from_pylist(rollout_rows("exp", 0, 0, 2, 2), SCHEMAS["rollouts"])
    with partition.writer("c", {}) as writer:
        for index in range(3):
            writer.write(index, rows)
    for index, before in ((0, "pyarrow 1.0"), (1, None)):  # written by an earlier version; before it was noted
        receipt = Path(partition.path) / f"_shard-{index:05d}.json"
        receipt.write_text(json.dumps({k: v for k, v in json.loads(receipt.read_text()).items() if k != "written_by"}))
        if before:
            receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"written_by": before}))
    with partition.writer("c", {}) as writer:
        assert all(writer.is_done(index) for index in range(3))
        manifest = writer.commit(3)
    assert manifest.written_by == f"pyarrow 1.0, pyarrow {pa.__version__}"
    assert partition.manifest() == manifest
    assert dataclasses.replace(manifest, written_by=None).hash == manifest.hash
    (told,) = [record.getMessage() for record in caplog.records]
    assert "exp/rollouts/generation=0000: shards of an interrupted run were written by pyarrow 1.0" in told


def test_a_shard_carries_its_configuration_and_its_layout(store: Store) -> None:
    """What docs/data.md promises of files that were copied out of the store."""
    partition = store.partition("exp", "rollouts", 0)
    rows = pa.Table.from_pylist(rollout_rows("exp", 0, 0, 1_100, 4), SCHEMAS["rollouts"])
    rows = rows.set_column(
        rows.schema.get_field_index("behavior_logprobs"),
        SCHEMAS["rollouts"].field("behavior_logprobs"),
        pa.array([np.zeros(3, np.float32)] * rows.num_rows, pa.list_(pa.float32())),
    )
    with partition.writer(CONFIG, {}) as writer:
        writer.write(0, rows)
        writer.commit(1)
    file = pq.ParquetFile(f"{partition.path}/shard-00000.parquet")
    assert file.schema_arrow.metadata[b"tbrm.config_hash"] == CONFIG.encode()
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4_096, 304]
    group = file.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert "BYTE_STREAM_SPLIT" in columns["behavior_logprobs.list.element"].encodings
    assert columns["prompt_id"].has_dictionary_page
    assert not columns["response_token_ids.list.element"].has_dictionary_page


def test_sidecars_are_compared_row_by_row() -> None:
    left = pa.table({"trajectory_id": ["a", "b", "c"]})
    check_aligned(left, pa.table({"trajectory_id": ["a", "b", "c"]}), "here")
    for other, row in ((["a", "x", "c"], 1), (["a", "b"], 2), (["a", "b", "c", "d"], 3), (["b", "a", "c"], 0)):
        told = rf"here: row {row} belongs to another trajectory.*\(3 rollouts, {len(other)} rows\)"
        with pytest.raises(StoreError, match=told):
            check_aligned(left, pa.table({"trajectory_id": other}), "here")


def test_one_holds_a_folder_and_the_next_is_told_who(tmp_path: Path) -> None:
    folder = str(tmp_path / "new" / "folder")
    me = f"process {os.getpid()} on {os.uname().nodename}"
    with exclusive(folder), pytest.raises(StoreError, match=f"is being written by {me};"), exclusive(folder):
        pass
    with exclusive(folder):
        assert Path(folder, "_lock").read_text() == me
    Path(folder, "_lock").write_text("x" * 200)  # a longer name than ours, left by a dead process
    with exclusive(folder):
        assert Path(folder, "_lock").read_text() == me


def test_a_file_system_without_locks_holds_one_at_a_time_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS without its lock daemon, and Lustre mounted without `flock`."""

    def refused(_handle: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    folder = str(tmp_path)
    me = f"process {os.getpid()} on {os.uname().nodename}"
    told = f"is being written by {me};.*has no locks: if that process is gone, delete {folder}/_lock.held"
    with exclusive(folder), pytest.raises(StoreError, match=told), exclusive(folder):
        pass
    with exclusive(folder):
        pass
    dead = 2**22 + 1  # above the largest id that Linux gives
    Path(folder, "_lock.held").write_text(f"{dead}\n{os.uname().nodename}\n")
    with exclusive(folder):
        pass
    order, inside = list[int](), threading.Semaphore(1)

    def one(number: int) -> None:
        with locks.locked(f"{folder}/_wait"):
            assert inside.acquire(blocking=False), "two at a time"
            order.append(number)
            inside.release()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order) == [0, 1, 2, 3]
