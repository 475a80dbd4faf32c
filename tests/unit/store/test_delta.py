"""A table of the store is read as a Delta table by a library that knows nothing of us, and no file is copied."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from pipeline.browse.delta import export_delta
from pipeline.cli.main import tbrm
from pipeline.errors import StoreError
from pipeline.store import SCHEMAS, Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "data"))


def label(row: int, reward: float) -> dict[str, Any]:
    """A row of `rewards`, the table with the most kinds of columns."""
    return {
        "trajectory_id": f"t{row}",
        "reward": reward,
        "status": "ok",
        "verifier": "plain",
        "verifier_version": "1",
        "components": [("correctness", reward), ("format", 1.0)],
        "token_rewards": [0.0, reward],
    }


def write(store: Store, generation: int, rewards: list[float], config: str = "c") -> None:
    """Commit a generation of labels, two in a shard."""
    labels = [label(row, reward) for row, reward in enumerate(rewards)]
    with store.partition("exp", "rewards", generation).writer(config, {}, replace=True) as writer:
        for index in range(0, len(labels), 2):
            writer.write(index // 2, pa.Table.from_pylist(labels[index : index + 2], SCHEMAS["rewards"]))
        writer.commit((len(labels) + 1) // 2)


def read(store: Store) -> list[dict[str, Any]]:
    """The table as another library reads it, in a certain order."""
    rows = pa.table(DeltaTable(f"{store.base}/exp/rewards").to_pyarrow_table()).to_pylist()
    return sorted(rows, key=lambda row: (row["generation"], row["trajectory_id"]))


def test_another_library_reads_every_committed_row_where_it_lies(store: Store) -> None:
    write(store, 0, [1.0, 0.0, 0.5])
    write(store, 1, [0.25])
    shards = sorted(Path(store.base).rglob("*.parquet"))
    done = export_delta(store, "exp", "rewards")
    assert (done.version, done.rows, done.added, done.removed) == (0, 4, 3, 0)
    assert sorted(Path(store.base).rglob("*.parquet")) == shards, "nothing is copied"
    rows = read(store)
    assert [(row["generation"], row["reward"]) for row in rows] == [(0, 1.0), (0, 0.0), (0, 0.5), (1, 0.25)]
    expected = pa.Table.from_pylist([label(0, 1.0)], SCHEMAS["rewards"]).to_pylist()[0]
    assert {name: value for name, value in rows[0].items() if name != "generation"} == expected


def test_a_further_export_tells_what_was_added_and_replaced(store: Store) -> None:
    write(store, 0, [1.0, 0.0, 0.5])
    export_delta(store, "exp", "rewards")
    assert export_delta(store, "exp", "rewards").version == 0, "nothing has changed"
    write(store, 0, [0.0, 0.0], config="another verifier")
    write(store, 1, [1.0])
    done = export_delta(store, "exp", "rewards")
    assert (done.version, done.rows, done.added, done.removed) == (1, 3, 2, 1)
    assert [row["reward"] for row in read(store)] == [0.0, 0.0, 1.0]
    assert store.generations("exp", "rewards") == [0, 1]
    assert store.tables("exp") == ["rewards"]


def test_every_table_has_types_that_delta_knows(store: Store) -> None:
    for table, schema in SCHEMAS.items():
        with store.partition("exp", table, 0).writer("c", {}) as writer:
            writer.write(0, schema.empty_table())
            writer.commit(1)
        export_delta(store, "exp", table)
        names = [field.name for field in DeltaTable(f"{store.base}/exp/{table}").schema().fields]
        assert set(names) == {*schema.names, "generation"}


def test_the_command_exports_all_tables_or_the_named_ones(store: Store) -> None:
    write(store, 0, [1.0])
    told = CliRunner().invoke(tbrm, ["delta", "exp", "--root", store.base])
    assert told.exit_code == 0, told.output
    assert "rewards: version 0, 1 rows; 1 files added, 0 removed" in told.output
    with pytest.raises(StoreError, match="exp/rollouts has no committed generation"):
        export_delta(store, "exp", "rollouts")


@pytest.mark.parametrize(
    "content", [b"{", b"1\n", b"\xff\xfe", b'{"add": {}}\n', b'{"add": 3}\n', b'{"remove": {}}', b"[" * 100_000]
)
def test_a_damaged_log_is_told_and_left_as_it_is(store: Store, content: bytes) -> None:
    write(store, 0, [1.0])
    export_delta(store, "exp", "rewards")
    (log,) = Path(store.base).rglob("_delta_log/*.json")
    log.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{log.name} is no version of a Delta .*delete .*_delta_log and export"):
        export_delta(store, "exp", "rewards")
    assert log.read_bytes() == content
