"""A log that grows while it is imported: whole lines and whole files are taken, and nothing twice."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StoreError, TbrmError
from pipeline.logged.settings import ImportSettings
from pipeline.logged.sources import local_file, without_half_a_line
from pipeline.logged.watch import Watch, run_watch
from pipeline.store import Store, open_store
from tests.support.read_here import read_here

ROW = '{"prompt": "%d+1=", "response": "2", "reward": 1}\n'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def settings(tokenizer: str, *files: Path) -> ImportSettings:
    return ImportSettings("log", tuple(map(str, files)), tokenizer, "somebody")


def watched(store: Store, settings: ImportSettings, seconds: float = 0.0) -> int:
    with read_here():
        return run_watch(settings, store, seconds, lambda _: None, look_every_s=0.02, commit_every_s=0.05)


def prompts(store: Store) -> list[str]:
    """Of all parts, in their order."""
    return [
        text
        for generation in store.generations("logged/log", "rollouts")
        for _, shard in store.partition("logged/log", "prompts", generation).iter_shards(["prompt_text"])
        for text in shard.column(0).to_pylist()
    ]


def asked(numbers: range) -> list[str]:
    return [f"{number}+1=" for number in numbers]


def test_what_a_writer_appends_and_adds_is_taken_once(tmp_path: Path, store: Store, tokenizer: str) -> None:
    """Lines come in two halves, and files appear, while the log is watched."""
    log = tmp_path / "log"
    log.mkdir()

    def write() -> None:
        with (log / "a.jsonl").open("w") as file:
            for number in range(20):
                line = ROW % number
                file.write(line[:9])
                file.flush()
                time.sleep(0.01)
                file.write(line[9:])
        rows = [json.loads(ROW % number) for number in range(20, 30)]
        pq.write_table(pa.Table.from_pylist(rows), log / "b.parquet")

    writer = threading.Thread(target=write)
    writer.start()
    parts = watched(store, settings(tokenizer, log), 0.6)
    writer.join()
    assert parts > 1
    assert sorted(prompts(store)) == sorted(asked(range(30)))
    assert watched(store, settings(tokenizer, log)) == 0, "nothing is taken twice"


def test_half_a_line_waits_and_rows_keep_their_numbers(tmp_path: Path, store: Store, tokenizer: str) -> None:
    log = tmp_path / "a.jsonl"
    log.write_text(ROW % 0 + ROW % 1 + (ROW % 2)[:10])
    assert without_half_a_line(local_file(log)).end == 2 * len(ROW % 0)
    assert watched(store, settings(tokenizer, log)) == 1
    assert prompts(store) == asked(range(2))
    with log.open("a") as file:
        file.write((ROW % 2)[10:] + ROW % 3 + "nonsense\n")
    again = settings(tokenizer, log)
    with read_here(), pytest.raises(TbrmError, match=r"a\.jsonl row 5, field '': not JSON"):
        run_watch(again, store, 0.0, lambda _: None)
    assert prompts(store) == asked(range(2)), "the parts before it stay"


def test_a_watch_goes_on_where_one_ended(tmp_path: Path, store: Store, tokenizer: str) -> None:
    log = tmp_path / "a.jsonl"
    for end in (3, 5, 9):
        log.write_text("".join(ROW % number for number in range(end)))
        assert watched(store, settings(tokenizer, log)) == 1
    assert prompts(store) == asked(range(9))
    assert store.generations("logged/log", "rollouts") == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "told"), [("a.jsonl", "was written anew"), ("a.csv", "was changed after it was read whole")]
)
def test_what_was_read_may_not_change(tmp_path: Path, store: Store, tokenizer: str, name: str, told: str) -> None:
    log = tmp_path / name
    header = "prompt,response,reward\n" if name.endswith("csv") else ""
    log.write_text(header + ("1+1=,2,1\n2+2=,4,1\n" if header else ROW % 1 + ROW % 2))
    watch = Watch(settings(tokenizer, log), store)
    watch.look()
    with read_here():
        watch.take(watch.look())
    log.write_text(header + "1+1=,2,1\n" * 9 if header else ROW % 1)
    with pytest.raises(TbrmError, match=told):
        watch.look()


def test_a_data_set_of_another_import_is_not_watched(tmp_path: Path, store: Store, tokenizer: str) -> None:
    from pipeline.logged.importer import run_import

    log = tmp_path / "a.jsonl"
    log.write_text(ROW % 1)
    with read_here():
        run_import(settings(tokenizer, log), store)
    with pytest.raises(StoreError, match="was not made by --watch"):
        watched(store, settings(tokenizer, log))


def test_a_log_that_does_not_exist_yet_is_waited_for(tmp_path: Path, store: Store, tokenizer: str) -> None:
    assert watched(store, settings(tokenizer, tmp_path / "later.jsonl")) == 0


def test_ctrl_c_takes_what_came(tmp_path: Path, store: Store, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "a.jsonl"
    log.write_text(ROW % 1)

    def interrupted(_: float) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.logged.watch.time.sleep", interrupted)
    with read_here():
        assert run_watch(settings(tokenizer, log), store, None, lambda _: None) == 1
    assert prompts(store) == asked(range(1, 2))
