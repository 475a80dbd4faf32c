"""The process that reads a log: what files made to do harm cost, and that it ends when it should."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import TbrmError
from pipeline.logged import reader_process
from pipeline.logged.reader_process import reader
from pipeline.logged.settings import ImportSettings
from pipeline.logged.sources import find_files
from pipeline.store import open_store
from tests.support.byte_tokenizer import CHAT, save_byte_tokenizer
from tests.support.logs import ROWS, jsonl

MAIN = "from pipeline.cli.main import main; main()"
PEAK_MEMORY = Path(__file__).parents[2] / "support" / "peak_memory.py"
# The importer's own peak beside that of the reader, in KiB.
IMPORT = """
import json, resource, sys
from pipeline.cli.main import tbrm
try:
    code = tbrm(sys.argv[2:], standalone_mode=False)
finally:
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    open(sys.argv[1], "w").write(json.dumps(peaks))
sys.exit(code if isinstance(code, int) else 0)
"""
GOOD = {"prompt": "1+1=", "response": "2", "reward": 1.0}
LONGEST = 2**31 - 1
TEXT_BYTES = 15 * 2**20
START_MB = 200
"""What each of the two processes takes without any rows, at most."""


def imported(folder: Path, tokenizer: str, *arguments: str) -> tuple[int, str, float, float]:
    """(exit status, output, peak MiB of the importer, of the reader) of `tbrm import`."""
    command = [sys.executable, str(PEAK_MEMORY), "largest", sys.executable, "-c", IMPORT, "peaks", "import"]
    command += [*arguments, "--tokenizer", tokenizer, "--name", "hostile", "--root", "root"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True)
    own, below = json.loads((folder / "peaks").read_text())
    return done.returncode, done.stdout, own / 1024, below / 1024


def arrow(path: Path, rows: int, bomb: Any) -> None:
    columns = {name: [GOOD[name]] * rows for name in GOOD}
    batch = pa.record_batch(columns | {"extra": bomb})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as sink:
        sink.write_batch(batch)


def one_list(values: Any) -> Any:
    return pa.ListArray.from_arrays([0, len(values)], values)


def parquet(path: Path, keep_types: bool = True, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=keep_types)


def lines(path: Path, rows: int, text: bytes) -> None:
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        for row in range(rows):
            file.write(b'{"prompt": "%d%s", "response": "2", "reward": 1}\n' % (row, text))


def text_of(texts: int, characters: int) -> Any:
    """So many texts of so many characters, for the price of one."""
    return pa.DictionaryArray.from_arrays(np.zeros(texts, np.int32), pa.array(["0" * characters]))


RUN = pa.RunEndEncodedArray.from_arrays(pa.array([LONGEST], pa.int32()), pa.array(["a"]))
VIEWED = pa.ListViewArray.from_arrays(
    pa.array([0], pa.int32()), pa.array([2**22], pa.int32()), pa.array(np.zeros(2**22, np.int64))
)
HOSTILE: dict[str, Callable[[Path], None]] = {
    "a.arrow": lambda path: arrow(path, 1, one_list(pa.nulls(LONGEST))),
    "b.arrow": lambda path: arrow(path, 1, pa.FixedSizeListArray.from_arrays(pa.nulls(LONGEST), LONGEST)),
    "c.arrow": lambda path: arrow(path, 1, one_list(RUN)),
    "d.arrow": lambda path: arrow(path, 1, one_list(text_of(10_000, 10_000))),
    "e.arrow": lambda path: arrow(path, 1, VIEWED),
    "f.arrow": lambda path: arrow(path, 1, one_list(pa.StructArray.from_arrays([pa.nulls(LONGEST)], ["x"]))),
    "g.arrow": lambda path: arrow(
        path, 1, pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [one_list(pa.nulls(LONGEST))])
    ),
    "h.parquet": lambda path: parquet(
        path, prompt=["a"], response=["b"], reward=[1.0], extra=one_list(text_of(2**22, 1_000))
    ),
    "i.parquet": lambda path: parquet(path, prompt=text_of(64, 2**24), response=["b"] * 64, reward=[1.0] * 64),
    "j.json.gz": lambda path: path.write_bytes(gzip.compress(b"[{}" + b",{}" * 20_000 + b"]")) and None,
    "k.jsonl.gz": lambda path: lines(path, 12, b"0" * 14 * 2**20),
    "l.jsonl": lambda path: lines(path, 4, b"0 1" * (TEXT_BYTES // 3)),
    "m.csv.gz": lambda path: path.write_bytes(gzip.compress(b"prompt,response,reward\n" + b"0" * 2**27, 1)) and None,
}


def test_hostile_files_cost_little_and_take_no_good_row_with_them(tmp_path: Path, tokenizer: str) -> None:
    log = tmp_path / "log"
    log.mkdir()
    jsonl(log / "0.jsonl", [GOOD | {"prompt": f"{n}+1="} for n in range(20)])
    for name, write in HOSTILE.items():
        write(log / name)
    jsonl(log / "z.jsonl", [GOOD | {"prompt": f"{n}+2="} for n in range(20)])
    code, output, own, below = imported(tmp_path, tokenizer, "log", "--max-bad-share", "1")
    assert code == 0, output
    assert own < START_MB + 100, "the importer holds nothing of what is refused"
    assert below < START_MB + 1_000
    store = open_store(str(tmp_path / "root"))
    assert store.partition("logged/hostile", "rollouts").manifest().rows == 40
    quarantine = [table for _, table in store.partition("logged/hostile", "quarantine").iter_shards(["file"])]
    bad = {file for table in quarantine for file in table.column("file").to_pylist()}
    assert {Path(file).name for file in bad} == set(HOSTILE)


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_row_that_unpacks_to_a_gigabyte(tmp_path: Path, tokenizer: str, compression: str) -> None:
    bomb = tmp_path / f"log.jsonl.{compression}"
    with pa.output_stream(str(bomb), compression={"gz": "gzip", "zst": "zstd"}[compression]) as stream:
        stream.write(json.dumps(GOOD).encode() + b'\n{"prompt": "')
        for _ in range(64):
            stream.write(b"0" * 2**24)
        stream.write(b'"}\n' + json.dumps(GOOD | {"prompt": "2"}).encode())
    assert bomb.stat().st_size < 2**21
    limits = ("--max-bad-share", "0.5", "--max-row-mb", "1")
    code, output, own, below = imported(tmp_path, tokenizer, bomb.name, *limits)
    assert code == 0, output
    assert max(own, below) < START_MB + 100
    assert "--max-row-mb 1" in next((tmp_path / "root").rglob("quarantine/**/*.parquet")).read_bytes().decode("latin-1")


def test_more_memory_than_the_reader_has(tmp_path: Path, tokenizer: str) -> None:
    """Rows of 64 MiB are decoded 64 at a time: that is 4 GiB out of a file of kilobytes."""
    path = tmp_path / "log.parquet"
    parquet(path, keep_types=False, prompt=text_of(64, 2**26), response=["b"] * 64, reward=[1.0] * 64)
    code, output, own, below = imported(tmp_path, tokenizer, "log.parquet")
    assert code == 1
    assert "error: reading the log needs more than 2,048 MiB of memory" in output
    assert "Traceback" not in output
    assert own < START_MB + 100
    assert below < START_MB + 2_048
    assert not list((tmp_path / "root").rglob("_manifest.json"))


@pytest.fixture
def settings(tmp_path: Path) -> ImportSettings:
    words = [*map(str, range(19)), "endless"]
    rows = [{"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": "a"}]} for word in words]
    path = jsonl(tmp_path / "log.jsonl", rows)
    tokenizer = save_byte_tokenizer(tmp_path / "endless")
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = "{% if messages[0].content == 'endless' %}" + endless + "{% endif %}" + CHAT
    (tmp_path / "endless" / "chat_template.jinja").write_text(template)
    return ImportSettings("log", (str(path),), tokenizer, "somebody")


def readers() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "pipeline.logged.reader" in " ".join(each.cmdline())]


def test_a_reader_that_makes_no_progress_is_ended(settings: ImportSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    with reader(settings, find_files(settings.files)) as log:
        log.plan()
        assert log.has_shard()
        monkeypatch.setattr(reader_process, "STALL_S", 0.2)
        with pytest.raises(
            TbrmError, match=r"no progress for 0\.2 s .*log\.jsonl row 20 and the 19 before it.*committed"
        ):
            log.shard(0)
        assert len(readers()) == 1
    assert readers() == []


def test_a_reader_that_is_killed_is_told_as_that(settings: ImportSettings) -> None:
    with reader(settings, find_files(settings.files)) as log:
        log.plan()
        assert log.has_shard()
        (process,) = readers()
        process.send_signal(signal.SIGKILL)
        with pytest.raises(TbrmError, match=r"ended with signal SIGKILL .*nothing was committed"):
            log.shard(0)


def test_the_reader_ends_with_the_importer(tmp_path: Path, tokenizer: str) -> None:
    """Killed in the middle, the importer leaves no process behind."""
    jsonl(tmp_path / "log.jsonl", [row | {"question": f"{n}"} for row in ROWS for n in range(2_000)])
    command = [
        sys.executable,
        "-c",
        MAIN,
        "import",
        "log.jsonl",
        "--name",
        "log",
    ]
    command += ["--tokenizer", tokenizer, "--root", "root", "--rows-per-shard", "100", "--template", "raw"]
    process = psutil.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "root").rglob("shard-00003.parquet")):
        assert process.poll() is None
    (child,) = process.children()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs([child], timeout=60)[1] == []
