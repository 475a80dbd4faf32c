"""A small log in several formats, and its import."""

import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TbrmError
from pipeline.logged.importer import ImportSettings, run_import
from pipeline.policies.tiny import save_tiny_arith
from pipeline.store import open_store

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
