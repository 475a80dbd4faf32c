"""Rates of the store: write, scan, join and pack generated trajectories, beside plain pyarrow and `datasets`.

    python -m benchmarks.store --rows 10000 100000 1000000     # -> benchmarks/results/store.json

Every measurement runs in a process of its own, and the fastest of its repeats counts. `peak_mb` is the largest
anonymous memory (RssAnon): mapped files are pages that the kernel may drop at any time. Files are in the page cache
and imports are done before the clock starts: what is compared is code, not disks.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.store_rows import (
    EXPERIMENT,
    PER_PROMPT,
    RESULTS,
    SHARD_ROWS,
    TOKEN_BUDGET,
    VOCABULARY,
    experiment,
    machine,
    write_store,
)
from pipeline.store import Store, open_store

BATCH, PAD = 512, 0
"""Trajectories of an update, or of a padded batch."""

SLOW, SLOW_ROWS = ("collate_datasets",), 100_000


def scan(store: Store) -> Iterator[tuple[int, int]]:
    """Every column of the rollouts, checked against the manifest. Yields (rows, bytes in memory)."""
    for _, table in store.partition(EXPERIMENT, "rollouts", 0).iter_shards():
        yield table.num_rows, table.nbytes


def scan_pyarrow(store: Store) -> Iterator[tuple[int, int]]:
    """The limit: pyarrow reads the same files and checks nothing."""
    for path in _paths(store, "rollouts"):
        table = pq.ParquetFile(path).read()
        yield table.num_rows, table.nbytes


def join(store: Store) -> Iterator[tuple[int, int]]:
    """The replay mix: rollouts with rewards and reference log-probs beside them, checksums and alignment checked."""
    from pipeline.replay.mix import resolve_mix

    for _, table in resolve_mix(store, experiment(), 0).tables(store):
        yield table.num_rows, table.nbytes


def join_pyarrow(store: Store) -> Iterator[tuple[int, int]]:
    """The limit: pyarrow reads the same columns of the same files, and nobody looks whether rows belong together."""
    from pipeline.replay.mix import REFERENCE_COLUMNS, REWARD_COLUMNS, ROLLOUT_COLUMNS

    for files in zip(*(_paths(store, name) for name in ("rollouts", "rewards", "ref_logprobs")), strict=True):
        columns = (ROLLOUT_COLUMNS, REWARD_COLUMNS, REFERENCE_COLUMNS)
        parts = [pq.ParquetFile(path).read(list(names)) for path, names in zip(files, columns, strict=True)]
        yield parts[0].num_rows, sum(part.nbytes for part in parts)


def pack(store: Store) -> Iterator[tuple[int, int]]:
    """From the store's files to packed tensors of the trainer: the mix is copied once, then read in random order."""
    from pipeline.replay.mix import resolve_mix
    from pipeline.scoring.batch import pack as packed
    from trainer.data.trajectories import TrajectoryTable, batch_rows, mix_tables, write_trajectories

    training = experiment().training
    with tempfile.TemporaryDirectory(dir=store.base) as folder:
        write_trajectories(mix_tables(store, resolve_mix(store, experiment(), 0), VOCABULARY), training, Path(folder))
        table = TrajectoryTable(Path(folder), training.beta)
        prompts = BATCH // PER_PROMPT
        for update in range(-(-len(table.groups) // prompts)):
            for batch in packed(table.read(batch_rows(table.groups, 0, update, prompts)), TOKEN_BUDGET):
                yield len(batch.trajectories), batch.input_ids.numel() * 8


def copy_mix(store: Store) -> Iterator[tuple[int, int]]:
    """The part of `pack` that comes once: resolve the mix and copy its chosen rows into one mapped file."""
    from pipeline.replay.mix import resolve_mix
    from trainer.data.trajectories import mix_tables, write_trajectories

    with tempfile.TemporaryDirectory(dir=store.base) as folder:
        tables = mix_tables(store, resolve_mix(store, experiment(), 0), VOCABULARY)
        rows = write_trajectories(tables, experiment().training, Path(folder))
        yield rows, sum(path.stat().st_size for path in Path(folder).iterdir())


def collate_datasets(store: Store) -> Iterator[tuple[int, int]]:
    """What one would pick instead: `datasets` streams examples, the collator of transformers pads them.

    It reads the rollouts only. Rewards and reference log-probs, whose lists that collator cannot pad, come on top.
    """
    import torch
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast

    def example(row: dict[str, list[int]]) -> dict[str, list[int]]:
        prompt, response = row["prompt_token_ids"], row["response_token_ids"]
        return {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response}

    vocabulary = Tokenizer(models.WordLevel({"<pad>": PAD, "<unk>": 1}, unk_token="<unk>"))
    collator = DataCollatorForSeq2Seq(PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="<pad>"))
    stream = _stream(store, ["prompt_token_ids", "response_token_ids"])
    stream = stream.map(example, remove_columns=["prompt_token_ids", "response_token_ids"])
    for batch in torch.utils.data.DataLoader(stream, batch_size=BATCH, collate_fn=collator):
        yield len(batch["input_ids"]), int(batch["attention_mask"].sum()) * 8


def collate_by_hand(store: Store) -> Iterator[tuple[int, int]]:
    """The leanest replacement that could be written: whole batches as numpy arrays, padded with one call a column."""
    columns = ["prompt_token_ids", "response_token_ids", "behavior_logprobs"]
    for batch in _stream(store, columns).with_format("numpy").iter(BATCH):
        ids, mask, _ = _padded(*(batch[name] for name in columns))
        yield len(ids), int(mask.sum()) * 8


def _stream(store: Store, columns: list[str]) -> Any:
    import datasets

    # Not shuffled, in its favour: `shuffle` of datasets 5.2 waits 5 s at the end of a pass.
    files = _paths(store, "rollouts")
    return datasets.load_dataset("parquet", data_files=files, streaming=True, split="train", columns=columns)


def _padded(prompts: Any, responses: Any, logprobs: Any) -> tuple[Any, Any, Any]:
    """(token ids, mask of real tokens, behaviour log-probs), each [rows, longest]."""
    import torch

    pad = torch.nn.utils.rnn.pad_sequence
    ids = [torch.from_numpy(np.concatenate(parts)) for parts in zip(prompts, responses, strict=True)]
    scores = [torch.from_numpy(np.array(row)) for row in logprobs]
    mask = pad([torch.ones(len(i), dtype=torch.bool) for i in ids], batch_first=True)
    return pad(ids, batch_first=True, padding_value=PAD), mask, pad(scores, batch_first=True)


def _paths(store: Store, table: str) -> list[str]:
    return sorted(str(path) for path in Path(store.partition(EXPERIMENT, table, 0).path).glob("shard-*.parquet"))


MEASURES: dict[str, Callable[[Store], Iterator[tuple[int, int]]]] = {
    "scan": scan,
    "scan_pyarrow": scan_pyarrow,
    "join": join,
    "join_pyarrow": join_pyarrow,
    "copy_mix": copy_mix,
    "pack": pack,
    "collate_datasets": collate_datasets,
    "collate_by_hand": collate_by_hand,
}


@contextlib.contextmanager
def peak_memory() -> Generator[Callable[[], float]]:
    """Largest RssAnon in MB, looked at every 10 ms."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
            peak[0] = max(peak[0], int(line.split()[1]) / 1024)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield lambda: peak[0]
    stop.set()
    thread.join()


def measure_here(name: str, root: str, rows: int) -> dict[str, Any]:
    """Run one measurement in this process."""
    store = open_store(root)
    with peak_memory() as peak:
        begun, used = time.perf_counter(), time.process_time()
        if name == "write":
            found = write_store(store, rows)
            done, size, seconds = rows, int(found["arrow_bytes"]), found["seconds"]
        else:
            next(MEASURES[name](store))  # imports and caches
            begun, used = time.perf_counter(), time.process_time()
            done = size = 0
            for count, amount in MEASURES[name](store):
                done, size = done + count, size + amount
            seconds = time.perf_counter() - begun
        cpu = time.process_time() - used
        time.sleep(0.02)
        return {
            "rows": done,
            "seconds": round(seconds, 3),
            "cpu_seconds": round(cpu, 3),
            "rows_per_s": round(done / seconds),
            "mb_per_s": round(size / seconds / 1e6, 1),
            "peak_mb": round(peak(), 1),
        }


def in_process(name: str, root: str, rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "one", name, root, str(rows)]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def measure(sizes: list[int], repeats: int, folder: str | None, names: list[str]) -> dict[str, Any]:
    """All measurements at all sizes: of `repeats` runs the fastest, with the largest peak memory."""
    found: dict[str, Any] = {}
    for rows in sizes:
        root = tempfile.mkdtemp(dir=folder)
        found[str(rows)] = table = {"write": in_process("write", root, rows)}
        table["write"]["file_mb"] = round(sum(p.stat().st_size for p in Path(root).rglob("*.parquet")) / 1e6, 1)
        for name in names:
            if name in SLOW and rows > SLOW_ROWS:
                continue  # its rate does not depend on the number of rows
            runs = [in_process(name, root, rows) for _ in range(repeats)]
            best = max(runs, key=lambda run: run["rows_per_s"])
            table[name] = best | {"peak_mb": max(run["peak_mb"] for run in runs)}
            sys.stderr.write(f"{rows} {name} {json.dumps(table[name])}\n")
        shutil.rmtree(root)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="Where to put the generated files. Default: the system's temporary folder.")
    parser.add_argument("--out", type=Path, default=RESULTS / "store.json")
    chosen = parser.parse_args()
    tree = {"machine": machine(), "shard_rows": SHARD_ROWS}
    tree |= {"sizes": measure(chosen.rows, chosen.repeats, chosen.folder, chosen.only)}
    tree["load_after"] = round(os.getloadavg()[0], 2)
    chosen.out.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        sys.stdout.write(json.dumps(measure_here(sys.argv[2], sys.argv[3], int(sys.argv[4]))) + "\n")
    else:
        main()
