"""A log of twenty trajectories, `tbrm import` on it, and rows of a log read in this process alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from pipeline.cli.main import tbrm
from pipeline.logged.fields import Bad, Candidate, candidates, responses_of
from pipeline.logged.raw import RawRow
from pipeline.logged.settings import Directions
from pipeline.logged.shapes import Shape, recognize
from pipeline.logged.stripped import chat_marks
from pipeline.logged.tokens import Tokenized, TokenSettings, tokenize
from pipeline.store import Store, open_store

ROWS = [
    {"question": f"What is {i}+{i}?", "completion": f"It is {2 * i}.", "gold": str(2 * i), "score": float(i % 2)}
    for i in range(20)
]
MAP = "prompt=question,response=completion,answer=gold,reward=score"


SAMPLES = Path(__file__).parent / "log_samples"


def sample(name: str) -> list[dict[str, Any]]:
    """Rows of our own making in the format `name`."""
    return [json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def read_as(
    rows: Sequence[Any], tokenizer: Any, template: str = "auto", directions: Directions | None = None
) -> tuple[Shape, list[Tokenized | Bad]]:
    """What the reader makes of rows, without its process, files and shards."""
    shape = recognize(rows[0], directions or Directions())
    by = shape.name if shape.stripped else ""
    how = TokenSettings(tokenizer, template, True, None, 10_000, marks=chat_marks(tokenizer), stripped_by=by)
    found: list[Candidate | Bad] = []
    for number, row in enumerate(rows, start=1):
        opened = responses_of(RawRow("log", number, row, None, number, 100), shape, 2**20)
        found += [opened] if isinstance(opened, Bad) else candidates(opened, wants_reward=False)
    return shape, tokenize(found, how)


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
