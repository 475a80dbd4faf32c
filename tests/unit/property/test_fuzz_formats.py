"""Logs of every known system with damage at any depth: imported, exported in every way, and imported again."""

import contextlib
import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TbrmError
from pipeline.logged.exporter import ExportSettings, Kind, run_export
from pipeline.logged.formats import FORMATS
from pipeline.logged.importer import ImportSettings, run_import
from pipeline.logged.settings import Template
from pipeline.store import Store, open_store
from tests.property.mutation import damaged_anywhere
from tests.support.chatml import chatml_folder
from tests.support.logs import sample
from tests.support.read_here import read_here

REWARDS = {"trl": {"accuracy_reward": 1.0}, "ms-swift": {"MathAccuracy": 1.0}}
SAME = ("prompt_token_ids", "response_token_ids", "response_mask", "behavior_logprobs", "finish_reason", "policy_id")


@functools.cache
def tokenizer() -> str:
    return chatml_folder(Path(tempfile.mkdtemp(prefix="tbrm-fuzz-")))


def imported(store: Store, name: str, path: Path, template: Template, rewards: dict[str, float]) -> int | None:
    """Rows of the committed data set; None when the log was refused, and nothing was committed."""
    settings = ImportSettings(
        name, (str(path),), tokenizer(), "somebody", template=template, rewards=rewards, max_bad_share=1.0
    )
    try:
        return run_import(settings, store).manifest.rows
    except TbrmError as error:
        assert len(str(error)) > 10
        assert not store.generations(f"logged/{name}", "rollouts")
        return None


def rollouts(store: Store, name: str) -> list[dict[str, Any]]:
    rows = [
        row for _, shard in store.partition(f"logged/{name}", "rollouts").iter_shards() for row in shard.to_pylist()
    ]
    for row in rows:
        length = len(row["response_token_ids"])
        assert length > 0
        assert row["prompt_token_ids"]
        assert row["response_mask"] is None or (len(row["response_mask"]) == length and any(row["response_mask"]))
        assert row["behavior_logprobs"] is None or len(row["behavior_logprobs"]) == length
    return [{field: row[field] for field in SAME} for row in rows]


def written(rows: list[dict[str, Any]], suffix: str) -> bytes:
    """The log as a file; as JSON lines where Parquet has no type for it."""
    if suffix == ".parquet":
        with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows), sink)
            return sink.getvalue()
    return json.dumps(rows).encode() if suffix == ".json" else "\n".join(map(json.dumps, rows)).encode()


def test_every_format_has_a_sample() -> None:
    assert all(sample(name) for name in FORMATS)


@given(st.sampled_from(sorted(FORMATS)), st.sampled_from([".jsonl", ".json", ".parquet"]), st.data())
def test_logs_of_known_systems(name: str, suffix: str, data: st.DataObject) -> None:
    whole = sample(name)
    broken = data.draw(st.lists(st.sampled_from(whole).flatmap(damaged_anywhere), min_size=1, max_size=4))
    rows = [*whole, *broken] if data.draw(st.booleans()) else [*broken, *whole]
    template: Template = data.draw(st.sampled_from(["restore", "chat", "raw"]))
    with tempfile.TemporaryDirectory() as folder, read_here():
        text = written(rows, suffix)
        path = Path(folder) / f"log{suffix if suffix != '.parquet' or text[:4] == b'PAR1' else '.jsonl'}"
        path.write_bytes(text)
        store = open_store(f"memory://{Path(folder).name}")
        if imported(store, "fuzzed", path, template, REWARDS.get(name, {})) is None:
            return
        for kind in get_args(Kind):
            out = Path(folder) / kind
            try:
                run_export(ExportSettings("logged/fuzzed", str(out), kind), store)
            except TbrmError as error:
                assert "gives nothing" in str(error) or "needs rewards" in str(error)
                assert not out.exists()
        before = rollouts(store, "fuzzed")
        assert imported(store, "again", Path(folder) / "dataset" / "data", "raw", {}) == len(before)
        assert rollouts(store, "again") == before
