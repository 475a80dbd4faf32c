"""A log of twenty trajectories, and `tbrm import` on it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from pipeline.cli.main import tbrm
from pipeline.store import Store, open_store

ROWS = [
    {"question": f"What is {i}+{i}?", "completion": f"It is {2 * i}.", "gold": str(2 * i), "score": float(i % 2)}
    for i in range(20)
]
MAP = "prompt=question,response=completion,answer=gold,reward=score"


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run_import(store: Path, tokenizer: str, *arguments: object) -> Result:
    given = ["import", "--name", "log", "--tokenizer", tokenizer, "--root", str(store), "--json", *map(str, arguments)]
    return CliRunner().invoke(tbrm, given)


def imported(store: Path, tokenizer: str, *arguments: object) -> tuple[Store, dict[str, Any]]:
    result = run_import(store, tokenizer, *arguments)
    assert result.exit_code == 0, result.output
    return open_store(str(store)), json.loads(result.stdout)["metrics"]


def rows_of(store: Store, table: str) -> list[dict[str, Any]]:
    return [row for _, shard in store.partition("logged/log", table).iter_shards() for row in shard.to_pylist()]
