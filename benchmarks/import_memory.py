"""Memory of `tbrm import` over a log of long responses with token ids and log-probs, as JSON lines and as Parquet.

    python -m benchmarks.import_memory --rows 10000 --tokens 32000     # -> benchmarks/results/import_memory.json

`peak_mb` is the largest sum of the anonymous memory (RssAnon) of the importer and the process that reads, sampled every
20 ms; mapped files are left out, which the kernel may drop at any time. `above_mb` is what is above the same import of
a log of eight rows of eight tokens: what the programs themselves take. The logs, some 6 GB as JSON, are written first.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.store_rows import RESULTS, machine
from tests.support.byte_tokenizer import save_byte_tokenizer

VOCABULARY = 256
ROWS_AT_ONCE = 50


def row(number: int, tokens: int) -> tuple[list[int], list[int], list[float]]:
    """Prompt ids, response ids and log-probs."""
    rng = np.random.default_rng(number)
    ids = rng.integers(97, 123, tokens + 16)
    logprobs = -rng.exponential(0.4, tokens).astype(np.float32).round(5)
    return ids[:16].tolist(), ids[16:].tolist(), logprobs.tolist()


def write_jsonl(path: Path, rows: int, tokens: int) -> None:
    with path.open("w", encoding="ascii") as file:
        for number in range(rows):
            prompt, response, logprobs = row(number, tokens)
            tree = {"prompt_token_ids": prompt, "response_token_ids": response, "logprobs": logprobs, "reward": 1.0}
            file.write(json.dumps(tree) + "\n")


def write_parquet(path: Path, rows: int, tokens: int) -> None:
    writer: pq.ParquetWriter | None = None
    for first in range(0, rows, ROWS_AT_ONCE):
        made = [row(number, tokens) for number in range(first, min(rows, first + ROWS_AT_ONCE))]
        table = pa.table(
            {
                "prompt_token_ids": pa.array([m[0] for m in made], pa.list_(pa.int32())),
                "response_token_ids": pa.array([m[1] for m in made], pa.list_(pa.int32())),
                "logprobs": pa.array([m[2] for m in made], pa.list_(pa.float32())),
                "reward": pa.array([1.0] * len(made)),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


WRITERS: dict[str, Callable[[Path, int, int], None]] = {"jsonl": write_jsonl, "parquet": write_parquet}


def anonymous_bytes(process: psutil.Process) -> int:
    """Of the process and all below it."""
    held = 0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error, OSError):
            status = Path(f"/proc/{each.pid}/status").read_text()
            held += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return held * 1024


def import_log(log: Path, tokenizer: str, folder: Path) -> dict[str, Any]:
    """Seconds, and the peak of memory."""
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "import", "--name", log.stem]
    command += ["--root", str(folder / "store"), "--tokenizer", tokenizer, "--policy", "made", str(log)]
    started, peak = time.perf_counter(), 0
    with (folder / "out").open("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, anonymous_bytes(watched))
            time.sleep(0.02)
        out.seek(0)
        said = out.read()
    if process.returncode:
        raise SystemExit(said)
    return {"seconds": round(time.perf_counter() - started, 1), "peak_mb": round(peak / 2**20)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=32_000)
    parser.add_argument("--kind", choices=WRITERS, help="Measure this format alone; the other keeps its figures.")
    parser.add_argument("--folder", type=Path, help="Where the logs are written; default: the temporary folder.")
    parser.add_argument("--out", type=Path, default=RESULTS / "import_memory.json")
    asked = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "rows": asked.rows, "tokens": asked.tokens, "logs": {}}
    if asked.kind and asked.out.exists():
        result["logs"] = json.loads(asked.out.read_text())["logs"]
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        tokenizer = save_byte_tokenizer(folder / "tokenizer")
        for kind in [asked.kind] if asked.kind else WRITERS:
            write = WRITERS[kind]
            small, large = folder / f"small.{kind}", folder / f"large.{kind}"
            write(small, 8, 8)
            write(large, asked.rows, asked.tokens)
            start, found = import_log(small, tokenizer, folder), import_log(large, tokenizer, folder)
            size = large.stat().st_size
            found |= {"above_mb": found["peak_mb"] - start["peak_mb"], "log_mb": round(size / 2**20)}
            found["mb_per_s"] = round(size / 2**20 / found["seconds"], 1)
            result["logs"][kind] = found
            sys.stderr.write(f"{kind}: {found}\n")
            large.unlink()
            subprocess.run(["rm", "-r", str(folder / "store")], check=True)
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
