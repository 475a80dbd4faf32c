"""How fast `tbrm import` reads logs, beside a bare read of the same files.

    python -m benchmarks.import_speed --mb 200     # -> benchmarks/results/import_speed.json

Logs: JSON lines with token ids, with ids and log-probs, with text, and the second as Parquet. Of each import: wall
seconds and processor seconds of the importer and the process that reads, together, above those of the same import of
eight rows. `mb_per_core_s` is MB of the file for each processor second. A bare read parses every line (orjson, json of
Python) or the file (Polars and pyarrow, with one thread) in a process of its own and does nothing else with it; orjson
and Polars are no dependencies of ours, and are left out where they are not installed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.store_rows import RESULTS, machine

VOCABULARY, TOKENS, TEXT_WORDS = 7_500, 2_000, 300
"""Tokens of a tokenizer that is trained on our documentation; tokens of a response; words of a response of text."""
DOCS = Path(__file__).parents[1] / "docs"
COMMAND = [sys.executable, "-c", "from pipeline.cli.main import main; main()"]
BARE: dict[str, tuple[str, str]] = {
    "orjson": ("orjson", "import orjson\nfor line in open(path, 'rb'): orjson.loads(line)"),
    "json": ("json", "import json\nfor line in open(path, 'rb'): json.loads(line)"),
    "polars": ("polars", "import polars\npolars.read_ndjson(path)"),
}
BARE_PARQUET: dict[str, tuple[str, str]] = {
    "pyarrow": ("pyarrow", "import pyarrow.parquet as pq\npq.read_table(path, use_threads=False)"),
    "polars": ("polars", "import polars\npolars.read_parquet(path)"),
}


def save_tokenizer(folder: Path) -> str:
    """A byte-level BPE tokenizer of the usual kind."""
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train([str(path) for path in sorted(DOCS.glob("*.md"))], trainer)
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>").save_pretrained(folder)
    return str(folder)


def tokens_of(tokenizer: str) -> list[int]:
    """Our documentation as token ids."""
    from transformers import AutoTokenizer

    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))
    return AutoTokenizer.from_pretrained(tokenizer).encode(text)


def token_row(number: int, stream: list[int]) -> dict[str, Any]:
    begin = (number * 7_919) % (len(stream) - TOKENS - 64)
    ids = stream[begin : begin + TOKENS + 64]
    return {"prompt_token_ids": [*ids[:64], number % VOCABULARY], "response_token_ids": ids[64:], "reward": 1.0}


def with_logprobs(number: int, stream: list[int]) -> dict[str, Any]:
    """Log-probs as a server of single precision writes them."""
    rng = np.random.default_rng(number)
    logprobs = (-rng.exponential(0.4, TOKENS)).astype(np.float32).astype(float).round(8).tolist()
    return token_row(number, stream) | {"logprobs": logprobs}


def text_row(number: int, words: list[str]) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    told = " ".join(words[place] for place in rng.integers(0, len(words), TEXT_WORDS))
    return {"prompt": f"Question {number}: {words[number % len(words)]}?", "response": told, "reward": 1.0}


def write_lines(path: Path, megabytes: int, made: Callable[[int], dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        number = 0
        while file.tell() < megabytes * 1e6:
            file.write(json.dumps(made(number)) + "\n")
            number += 1


def write_parquet(path: Path, lines: Path) -> None:
    ids, logprobs = pa.list_(pa.int32()), pa.list_(pa.float32())
    schema = pa.schema(
        {"prompt_token_ids": ids, "response_token_ids": ids, "reward": pa.float64(), "logprobs": logprobs}
    )
    rows: list[dict[str, Any]] = []
    with lines.open("rb") as file, pq.ParquetWriter(path, schema) as writer:
        for line in file:
            rows.append(json.loads(line))
            if len(rows) == 256:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))


def timed(command: list[str], **environment: str) -> tuple[float, float]:
    """(wall seconds, processor seconds) of a command and all below it."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, env=os.environ | environment)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            raise SystemExit(told.read())
    return wall, used.ru_utime + used.ru_stime


def import_log(log: Path, tokenizer: str, folder: Path) -> tuple[float, float]:
    store = folder / "store"
    options = ["--name", "log", "--root", str(store), "--tokenizer", tokenizer, "--policy", "made", "--template", "raw"]
    found = timed([*COMMAND, "import", str(log), *options])
    subprocess.run(["rm", "-r", str(store)], check=True)
    return found


def measured(log: Path, small: Path, tokenizer: str, folder: Path) -> dict[str, Any]:
    size = log.stat().st_size / 1e6
    start, whole = import_log(small, tokenizer, folder), import_log(log, tokenizer, folder)
    wall, used = (max(w - s, 1e-9) for w, s in zip(whole, start, strict=True))
    figures: dict[str, Any] = {
        "mb": round(size),
        "import": {
            **{"wall_s": round(wall, 2), "core_s": round(used, 2)},
            **{"mb_per_s": round(size / wall), "mb_per_core_s": round(size / used)},
        },
    }
    bare = BARE_PARQUET if log.suffix == ".parquet" else BARE
    for name, (package, code) in bare.items():
        if importlib.util.find_spec(package) is None:
            continue
        one = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
        begin, end = (timed([sys.executable, "-c", f"path = {str(path)!r}\n{code}"], **one)[1] for path in (small, log))
        figures[f"bare {name}"] = {
            "core_s": round(end - begin, 2),
            "mb_per_core_s": round(size / max(end - begin, 1e-9)),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=200, help="Size of each log as JSON; a quarter of it for text.")
    parser.add_argument("--folder", type=Path, help="Where the logs are written; default: the temporary folder.")
    parser.add_argument("--out", type=Path, default=RESULTS / "import_speed.json")
    asked = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "mb": asked.mb, "logs": {}}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        tokenizer = save_tokenizer(folder / "tokenizer")
        stream = tokens_of(tokenizer)
        words = sorted({word for path in sorted(DOCS.glob("*.md")) for word in path.read_text().split()})
        kinds: dict[str, Callable[[int], dict[str, Any]]] = {
            "token ids": lambda number: token_row(number, stream),
            "token ids and log-probs": lambda number: with_logprobs(number, stream),
            "text": lambda number: text_row(number, words),
        }
        for kind, made in kinds.items():
            small, log = folder / "small.jsonl", folder / "log.jsonl"
            small.write_text("".join(json.dumps(made(number)) + "\n" for number in range(8)))
            write_lines(log, asked.mb // 4 if kind == "text" else asked.mb, made)
            result["logs"][f"JSON lines, {kind}"] = measured(log, small, tokenizer, folder)
            if kind == "token ids and log-probs":
                for path in (small, log):
                    write_parquet(path.with_suffix(".parquet"), path)
                tables = (log.with_suffix(".parquet"), small.with_suffix(".parquet"))
                result["logs"][f"Parquet, {kind}"] = measured(*tables, tokenizer, folder)
            asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
