"""How shards should be laid out: size, write and read rates of generated rollouts under each choice, one at a time.

    python -m benchmarks.store_layout [--rows 65536] [--repeats 3]     # -> benchmarks/results/store_layout.json

Files are in the page cache; the fastest of the repeats counts. The choice is explained in docs/data.md, "Files".
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.store_rows import RESULTS, SHARD_ROWS, generated, machine

NAMES = ["prompt_id", "finish_reason", "policy_id", "sampling.engine", "sampling.engine_version"]
"""Columns of few different values."""
TOKENS = ["prompt_token_ids.list.element", "response_token_ids.list.element"]
SPLIT = {"behavior_logprobs.list.element": "BYTE_STREAM_SPLIT"}
CHOSEN: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "row_group_size": 4_096,
    "use_dictionary": NAMES,
    "column_encoding": SPLIT,
}


def layouts() -> dict[str, tuple[int, dict[str, Any]]]:
    """(rows a shard, options of pyarrow's writer) by name; each differs from the chosen one in what its name says."""
    found: dict[str, tuple[int, dict[str, Any]]] = {"chosen": (SHARD_ROWS, CHOSEN)}
    for rows in (512, 1_024, 16_384, 65_536):
        found[f"shard_rows={rows}"] = (rows, CHOSEN)
    for rows in (256, 1_024):
        found[f"row_group={rows}"] = (SHARD_ROWS, CHOSEN | {"row_group_size": rows})
    for codec, level in (("none", None), ("snappy", None), ("lz4", None), ("zstd", 1), ("zstd", 9)):
        name = codec if level is None else f"{codec}-{level}"
        found[name] = (SHARD_ROWS, CHOSEN | {"compression": codec, "compression_level": level})
    plain = {"column_encoding": None}
    found["floats plain"] = (SHARD_ROWS, CHOSEN | plain)
    found["no dictionary, floats plain"] = (SHARD_ROWS, CHOSEN | plain | {"use_dictionary": False})
    found["dictionary of tokens too"] = (SHARD_ROWS, CHOSEN | {"use_dictionary": [*NAMES, *TOKENS]})
    found["dictionary of everything (pyarrow's default)"] = (SHARD_ROWS, CHOSEN | plain | {"use_dictionary": True})
    delta = dict.fromkeys(TOKENS, "DELTA_BINARY_PACKED")
    found["tokens delta"] = (SHARD_ROWS, CHOSEN | {"column_encoding": SPLIT | delta})
    return found


def layout(rows: int, repeats: int, folder: str | None) -> dict[str, Any]:
    """Size, write and scan rates of the rollouts under each layout, and of reading one small column only."""
    whole = pa.concat_tables([generated(shard, SHARD_ROWS)[0] for shard in range(rows // SHARD_ROWS)])
    found: dict[str, Any] = {}
    for name, (shard_rows, options) in layouts().items():
        root = Path(tempfile.mkdtemp(dir=folder))
        write = scan_s = column_s = float("inf")
        for _ in range(repeats):
            begun = time.perf_counter()
            for shard, start in enumerate(range(0, rows, shard_rows)):
                pq.write_table(whole.slice(start, shard_rows), root / f"shard-{shard:05d}.parquet", **options)
            write = min(write, time.perf_counter() - begun)
            files = sorted(root.glob("*.parquet"))
            begun = time.perf_counter()
            for path in files:
                pq.read_table(path)
            scan_s = min(scan_s, time.perf_counter() - begun)
            begun = time.perf_counter()
            for path in files:
                pq.read_table(path, columns=["trajectory_id", "finish_reason"])
            column_s = min(column_s, time.perf_counter() - begun)
        found[name] = {
            "shard_rows": shard_rows,
            "file_mb": round(sum(p.stat().st_size for p in files) / 1e6, 1),
            "write_rows_per_s": round(rows / write),
            "scan_rows_per_s": round(rows / scan_s),
            "two_columns_rows_per_s": round(rows / column_s),
        }
        sys.stderr.write(f"{name} {json.dumps(found[name])}\n")
        shutil.rmtree(root)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="Where to put the generated files. Default: the system's temporary folder.")
    parser.add_argument("--out", type=Path, default=RESULTS / "store_layout.json")
    chosen = parser.parse_args()
    tree = {"machine": machine(), "rows": chosen.rows}
    tree |= {"layouts": layout(chosen.rows, chosen.repeats, chosen.folder)}
    chosen.out.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
