"""Logs of any shape and damage: rows are imported or quarantined, or nothing is committed and the error says why."""

import functools
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pipeline.builtin import save_tiny_arith
from pipeline.errors import TbrmError
from pipeline.logged.importer import ImportSettings, run_import
from pipeline.store import open_store
from tests.property.mutation import SCALARS, TREES, mutated

ROWS: list[dict[str, Any]] = [
    {"prompt": f"{i}+{i}=", "response": str(2 * i), "answer": str(2 * i), "reward": 1.0} for i in range(12)
]
JSONL = "\n".join(map(json.dumps, ROWS)).encode()
CSV = b"prompt,response,answer,reward\n" + b"".join(b"%d+1=,%d,%d,1\n" % (i, i + 1, i + 1) for i in range(12))


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


@functools.cache
def tokenizer() -> str:
    folder = Path(tempfile.mkdtemp(prefix="tbrm-fuzz-"))
    save_tiny_arith(folder, 0)
    return str(folder)


def imported(name: str, data: bytes, mapping: dict[str, str] | None = None, bad_share: float = 1.0) -> int | None:
    """Rows of the committed table; None when the import was refused, and nothing was committed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        store = open_store(f"{folder}/root")
        partition = store.partition("logged/fuzzed", "rollouts", 0)
        settings = ImportSettings(
            *("fuzzed", (str(path),), tokenizer(), "somebody"), mapping=mapping or {}, max_bad_share=bad_share
        )
        try:
            run_import(settings, store)
        except TbrmError as error:
            assert str(error)
            assert not partition.is_committed()
            return None
        rows = [row for _, shard in partition.iter_shards() for row in shard.to_pylist()]
        assert len({row["trajectory_id"] for row in rows}) == len(rows) == partition.manifest().rows
        assert all(row["response_token_ids"] for row in rows)
        return len(rows)


def test_the_undamaged_ones_are_imported() -> None:
    assert imported("log.jsonl", JSONL) == imported("log.csv", CSV) == imported("log.parquet", parquet(ROWS)) == 12


@given(mutated(JSONL))
def test_damaged_jsonl(data: bytes) -> None:
    imported("log.jsonl", data)


@given(mutated(CSV))
def test_damaged_csv(data: bytes) -> None:
    imported("log.csv", data)


@given(mutated(json.dumps(ROWS).encode()))
def test_damaged_json(data: bytes) -> None:
    imported("log.json", data)


@given(mutated(gzip.compress(JSONL, mtime=0)))
def test_damaged_gzip(data: bytes) -> None:
    imported("log.jsonl.gz", data)


@given(mutated(parquet(ROWS)))
def test_damaged_parquet(data: bytes) -> None:
    imported("log.parquet", data)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "prompt": SCALARS,
                "response": SCALARS,
                "messages": TREES,
                "answer": SCALARS,
                "reward": SCALARS,
                "prompt_ids": TREES,
                "response_ids": TREES,
                "extra": TREES,
                "behavior_logprobs": TREES,
                "finish_reason": SCALARS,
            },
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([{}, {"prompt": "extra.a"}, {"prompt": "messages", "response": "response"}, {"reward": "extra"}]),
    st.sampled_from([0.0, 1.0]),
)
def test_rows_of_wrong_types(rows: list[dict[str, Any]], mapping: dict[str, str], bad_share: float) -> None:
    text = "\n".join([*(json.dumps(row) for row in rows), *map(json.dumps, ROWS[:2])])
    imported("log.jsonl", text.encode("utf-8", "surrogatepass"), mapping, bad_share)
