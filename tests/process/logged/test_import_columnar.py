"""Formats that are read in a process of their own, under limits."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from tests.support.logs import MAP, ROWS, imported, jsonl, rows_of, run_import


def as_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "log.parquet")
    return folder / "log.parquet"


def as_arrow(folder: Path) -> Path:
    feather.write_feather(pa.Table.from_pylist(ROWS), str(folder / "log.arrow"))
    return folder / "log.arrow"


def as_dataset(folder: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return folder / "saved"


@pytest.mark.parametrize("make", [as_parquet, as_arrow, as_dataset], ids=lambda f: f.__name__[3:])
def test_every_format_gives_the_same_trajectories(tmp_path: Path, tokenizer: str, make: Callable[[Path], Path]) -> None:
    reference, _ = imported(tmp_path / "a", tokenizer, "--map", MAP, jsonl(tmp_path / "log.jsonl", ROWS))
    store, stats = imported(tmp_path / "b", tokenizer, "--map", MAP, make(tmp_path))
    assert (stats["trajectories"], stats["bad_rows"]) == (20, 0)
    assert rows_of(store, "rollouts") == rows_of(reference, "rollouts")
    assert [row["reward"] for row in rows_of(store, "rewards")] == [row["score"] for row in ROWS]


def test_a_truncated_file_is_named(tmp_path: Path, tokenizer: str) -> None:
    path = as_parquet(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    result = run_import(tmp_path / "a", tokenizer, "--map", MAP, path)
    assert result.exit_code == 1
    assert "log.parquet" in result.output
