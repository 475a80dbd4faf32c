"""A few kilobytes that unpack to gigabytes."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PEAK_MEMORY = Path(__file__).parents[2] / "support" / "peak_memory.py"
GOOD = json.dumps({"prompt": "1+1=", "response": "2", "answer": "2", "reward": 1.0}) + "\n"


def imported(folder: Path, tokenizer: str, file: str, max_mb: int, *options: str) -> tuple[int, str]:
    """Exit status and output of `tbrm import`, whose processes together never needed more than `max_mb`."""
    command = [sys.executable, str(PEAK_MEMORY), "peak", sys.executable, "-c", "from pipeline.cli import main; main()"]
    command += ["import", file, "--tokenizer", tokenizer, "--name", "hostile", "--root", "root", *options]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True)
    assert int((folder / "peak").read_text()) < max_mb * 1024
    return done.returncode, done.stdout


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_row_that_unpacks_to_a_gigabyte(tmp_path: Path, tokenizer: str, compression: str) -> None:
    bomb = tmp_path / f"log.jsonl.{compression}"
    with pa.output_stream(str(bomb), compression={"gz": "gzip", "zst": "zstd"}[compression]) as stream:
        stream.write(GOOD.encode())
        stream.write(b'{"prompt": "')
        for _ in range(64):
            stream.write(b"0" * 2**24)
        stream.write(b'"}\n' + GOOD.replace("1+1", "2+0").encode())
    assert bomb.stat().st_size < 2**21
    limits = ("--max-bad-share", "0.5", "--max-row-mb", "1")
    code, output = imported(tmp_path, tokenizer, bomb.name, 900, *limits)
    assert code == 0, output
    assert "--max-row-mb 1" in next((tmp_path / "root").rglob("quarantine/**/*.parquet")).read_bytes().decode("latin-1")


def test_a_column_that_unpacks_to_gigabytes(tmp_path: Path, tokenizer: str) -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 4_096, pa.int32()), pa.array(["0" * 2**24]))
    pq.write_table(pa.table({"prompt": text, "response": ["2"] * 4_096}), tmp_path / "log.parquet", compression="zstd")
    assert (tmp_path / "log.parquet").stat().st_size < 2**20
    code, output = imported(tmp_path, tokenizer, "log.parquet", 3_000)
    assert code == 1
    assert "error: " in output
    assert "Traceback" not in output
