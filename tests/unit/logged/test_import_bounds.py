"""Logs made to take memory or time: what is held at once has a limit, and what is over it is refused by name."""

import contextlib
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from pipeline.cli.main import tbrm
from pipeline.errors import TbrmError
from pipeline.logged import importer, reader, rows
from pipeline.logged.columnar import columnar_rows, row_sizes
from pipeline.logged.raw import BadField
from pipeline.logged.reader import Seen
from pipeline.logged.rows import read_rows
from pipeline.logged.sources import find_files, local_file
from pipeline.logged.stripped import chat_marks
from pipeline.store import open_store
from tests.support.chatml import chatml_folder
from tests.support.growth import exponent
from tests.support.logs import MAP, ROWS, imported, jsonl, rows_of, run_import

HUGE = 10**400
NESTED = json.loads("[" * 900 + "]" * 900)
LINEAR = 1.5  # between a line and a square
TEXT = {"prompt": "q", "response": "a", "answer": "1", "reward": 1.0, "finish_reason": "stop", "extra": {"a": 1}}
IDS = {"prompt_ids": [1, 2], "completion_ids": [3, 4], "logprobs": [-0.5, -1.0], "response_mask": [1, 1], "reward": 0.5}
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "reward": 1.0}
TRL = {"step": 1, "prompt": "q", "completion": "a", "accuracy_reward": 1.0, "advantage": 0.3}
VALUES = {
    "a whole number of 400 digits": HUGE,
    "a negative one": -HUGE,
    "a list of it": [HUGE, 1],
    "an object with it": {"a": HUGE},
    "a message with it": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "n": HUGE}],
    "lists as deep as a parser takes": NESTED,
    "an object as deep": {"a": NESTED},
    "a message as deep": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "tool_calls": NESTED},
    ],
}


@pytest.mark.parametrize("value", list(VALUES))
def test_such_a_value_in_any_field_is_taken_or_the_row_is_bad(tmp_path: Path, tokenizer: str, value: str) -> None:
    for base in (TEXT, IDS, CHAT, TRL):
        damaged = [base | {field: VALUES[value], "number": 10 + number} for number, field in enumerate(base)]
        log = [*(base | {"number": n} for n in range(10)), *damaged]
        path = jsonl(tmp_path / "log.jsonl", log)
        mapping = ["--map", "extra=extra"] if "extra" in base else []
        mapping += ["--reward", "accuracy_reward", "--template", "raw"] if base is TRL else []
        store, stats = imported(tmp_path / "a", tokenizer, "--replace", "--max-bad-share", "0.9", *mapping, path)
        assert (stats["rows"], stats["trajectories"] + stats["bad_rows"]) == (len(log), len(log))
        assert stats["trajectories"] >= 10
        assert {row["row"] for row in rows_of(store, "quarantine")} <= set(range(11, 11 + len(damaged)))


def test_rewards_that_no_training_can_hold_are_bad_rows(tmp_path: Path, tokenizer: str) -> None:
    """Their mean would be infinite in every report, and `tbrm inspect` could draw no histogram."""
    rows = [TEXT | {"prompt": f"{n}", "reward": reward} for n, reward in enumerate([1.7e308, -1.7e308, 1e39, -3e38, 1])]
    _, stats = imported(tmp_path / "a", tokenizer, "--max-bad-share", "1", jsonl(tmp_path / "log.jsonl", rows))
    assert (stats["trajectories"], stats["bad_rows"], stats["reward_mean"]) == (2, 3, -1.5e38)
    shown = CliRunner().invoke(tbrm, ["inspect", "logged/log", "--root", str(tmp_path / "a")])
    assert shown.exit_code == 0, shown.exception


def test_cells_of_csv_are_no_different(tmp_path: Path, tokenizer: str) -> None:
    deep = "[" * 900 + "]" * 900
    bad = [("1" * 400, "[1]"), ("1", f"[{HUGE}]"), ("1", deep), ("1" * 5_000, "[1]"), ("1", "[" * 90_000)]
    lines = ["prompt,completion_ids,reward", *(f'q{n},"[{n}]",1' for n in range(10))]
    lines += [f'b{n},"{ids}",{reward}' for n, (reward, ids) in enumerate(bad)]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    _, stats = imported(tmp_path / "a", tokenizer, "--max-bad-share", "0.9", tmp_path / "log.csv")
    assert (stats["trajectories"], stats["bad_rows"]) == (10, 5)


def test_a_row_of_many_responses_may_not_become_gigabytes(tmp_path: Path, tokenizer: str) -> None:
    """What responses share is stored with each: ten thousand of one letter under a prompt of 10,000."""
    many = {"prompt": "p" * 10_000, "response": ["a"] * 10_000, "reward": [1.0] * 10_000}
    honest = {"prompt": "p" * 1_000, "response": ["a", "b"] * 8, "reward": [1.0, 0.0] * 8}
    path = jsonl(tmp_path / "log.jsonl", [honest, many])
    store, stats = imported(tmp_path / "a", tokenizer, "--max-bad-share", "0.5", "--max-row-mb", "1", path)
    assert stats["trajectories"] == 16
    (bad,) = rows_of(store, "quarantine")
    assert (bad["row"], bad["field"]) == (2, "response")
    assert "10,000 responses" in bad["reason"]


def test_responses_that_are_all_bad_may_not_either(tmp_path: Path, tokenizer: str) -> None:
    """Each bad response is a row of the quarantine, which is longer than `0,`."""
    rows = [*ROWS, {"question": "q", "completion": [0] * 100_000, "gold": "1", "score": 1.0}]
    store, stats = imported(
        tmp_path / "a", tokenizer, "--map", MAP, "--max-row-mb", "1", jsonl(tmp_path / "log.jsonl", rows)
    )
    assert (stats["trajectories"], len(rows_of(store, "quarantine"))) == (20, 1)


def test_large_rows_fill_a_shard_early_and_it_resumes_there(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(reader, "CHUNK_BYTES", 6_000)
    rows = [row | {"completion": "x" * (4_000 if n % 3 else 10)} for n, row in enumerate(ROWS)]
    path = jsonl(tmp_path / "log.jsonl", rows)
    store, stats = imported(tmp_path / "a", tokenizer, "--map", MAP, path)
    shards = [table.num_rows for _, table in store.partition("logged/log", "rollouts").iter_shards()]
    assert len(shards) == 3
    assert sum(shards) == stats["trajectories"] == 20
    assert [row["sample_index"] for row in rows_of(store, "rollouts")] == list(range(20))

    def stopped(*_: object) -> None:
        raise TbrmError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(importer, "_stop_if_too_bad", stopped)  # between the last shard and the first manifest
        assert "stopped" in run_import(tmp_path / "b", tokenizer, "--map", MAP, path).output
    folder = tmp_path / "b" / "logged" / "log" / "rollouts" / "generation=0000"
    (folder / "shard-00001.parquet").unlink()
    kept = (folder / "shard-00002.parquet").stat().st_mtime_ns
    again, _ = imported(tmp_path / "b", tokenizer, "--map", MAP, path)
    assert (folder / "shard-00002.parquet").stat().st_mtime_ns == kept
    assert rows_of(again, "rollouts") == rows_of(store, "rollouts")
    assert rows_of(again, "prompts") == rows_of(store, "prompts")


def test_chunks_change_nothing_but_how_much_is_held(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*ROWS, ROWS[3], {"question": "q", "score": 1.0}]
    path = jsonl(tmp_path / "log.jsonl", rows)
    arguments = ("--map", MAP, "--max-bad-share", "0.5", "--duplicates", "responses", path)
    whole, stats = imported(tmp_path / "a", tokenizer, *arguments)
    monkeypatch.setattr(reader, "CHUNK_ROWS", 3)
    parts, same = imported(tmp_path / "b", tokenizer, *arguments)
    assert {key: stats[key] for key in stats if key != "seconds"} == {
        key: same[key] for key in same if key != "seconds"
    }
    for table in ("rollouts", "prompts", "rewards", "quarantine"):
        assert rows_of(whole, table) == rows_of(parts, table)


def test_a_hopeless_log_is_stopped_long_before_its_end(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "_HOPELESS_ROWS", 100)
    path = tmp_path / "log.json.gz"
    path.write_bytes(gzip.compress(f"[{json.dumps(ROWS[0])}{',{}' * 5_000}]".encode()))
    result = run_import(tmp_path / "a", tokenizer, "--map", MAP, "--rows-per-shard", "64", path)
    assert result.exit_code == 1
    assert "127 of 128 rows give nothing to store" in result.output
    assert "row 2" in result.output
    assert open_store(str(tmp_path / "a")).generations("logged/log", "rollouts") == []


@pytest.mark.parametrize("suffix", ["jsonl.gz", "json.gz", "csv.gz"])
def test_files_that_unpack_to_far_more_than_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(rows, "MAX_UNPACKED", (100_000, 20))
    text = {
        "jsonl.gz": '{"prompt": "%s", "n": %d}\n',
        "json.gz": '{"prompt": "%s", "n": %d},',
        "csv.gz": "%s,%d\n",
    }[suffix]
    body = "".join(text % ("0" * 500, n) for n in range(1_000))
    path = tmp_path / f"log.{suffix}"
    path.write_bytes(gzip.compress(("[" + body if suffix.startswith("json.") else "a,b\n" + body).encode()))
    taken: list[int] = []
    with pytest.raises(TbrmError, match="have unpacked to more than"):
        taken.extend(row.row for row in read_rows([local_file(path)], 2**20))
    assert 150 < len(taken) < 250


def test_a_row_too_long_is_passed_over_whole(tmp_path: Path) -> None:
    """Whether it is one line, one element or one quoted cell of many lines."""
    long = "x" * 5_000
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{{"a": "{long}"}}\n{{"a": 2}}\n')
    (tmp_path / "a.json").write_text(f'[{{"a": 1}}, {{"a": ["{long}"]}}, {{"a": 2}}]')
    (tmp_path / "a.csv").write_text(f'a\n1\n"{long}"\n2\n')
    (tmp_path / "b.csv").write_text("a,b\n1,1\n" + ",".join(['"\n"'] * 500) + "\n2,2\n")
    pq.write_table(pa.table({"a": ["1", long, "2"]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet", "b.csv"):
        found = list(read_rows([local_file(tmp_path / name)], 1_000))
        assert [row.data is None for row in found[:2]] == [False, True], name
        assert "--max-row-mb" in (found[1].problem or "")
        assert found[-1].data is not None, name


def test_one_line_without_end_as_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x" * 5_000)
    with pytest.raises(TbrmError, match="header is longer"):
        list(read_rows([local_file(tmp_path / "a.csv")], 1_000))


def test_a_text_beyond_any_context_is_not_tokenized(tmp_path: Path, tokenizer: str) -> None:
    long = ROWS[0] | {"question": "0 1" * (3 * 2**20)}
    store, _ = imported(tmp_path / "a", tokenizer, "--map", MAP, jsonl(tmp_path / "log.jsonl", [*ROWS, long]))
    (bad,) = rows_of(store, "quarantine")
    assert (bad["field"], bad["row"]) == ("prompt", 21)
    assert "9,437,184 characters" in bad["reason"]


COLUMNS: dict[str, Callable[[], Any]] = {
    "views of text": lambda: pa.array([row["completion"] for row in ROWS], pa.string_view()),
    "a dictionary": lambda: pa.array([row["completion"] for row in ROWS]).dictionary_encode(),
    "runs": lambda: pa.RunEndEncodedArray.from_arrays(
        pa.array(range(1, 21), pa.int32()), pa.array([row["completion"] for row in ROWS])
    ),
    "large text": lambda: pa.array([row["completion"] for row in ROWS], pa.large_string()),
}


@pytest.mark.parametrize("kind", list(COLUMNS))
def test_honest_columns_of_the_same_kinds_are_read(tmp_path: Path, tokenizer: str, kind: str) -> None:
    table = (
        pa.Table.from_pylist(ROWS)
        .drop_columns("completion")
        .append_column("completion", pa.chunked_array([COLUMNS[kind]()]))
    )
    with pa.OSFile(str(tmp_path / "log.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as sink:
        sink.write_table(table)
    store, stats = imported(tmp_path / "a", tokenizer, "--map", MAP, tmp_path / "log.arrow")
    assert (stats["trajectories"], stats["bad_rows"]) == (20, 0)
    assert [row["response_text"] for row in rows_of(store, "rollouts")] == [row["completion"] for row in ROWS]


def test_lists_of_numbers_in_columns_are_as_good_as_in_text(tmp_path: Path, tokenizer: str) -> None:
    log = [
        {
            "prompt_ids": [1, n],
            "completion_ids": [3, n],
            "logprobs": [-0.5, -n],
            "response_mask": [0, 1],
            "scores": [n, 2.5],
        }
        for n in range(20)
    ]
    mapping = ("--map", "reward=scores.1")
    text, _ = imported(tmp_path / "a", tokenizer, *mapping, jsonl(tmp_path / "log.jsonl", log))
    pq.write_table(pa.Table.from_pylist(log), tmp_path / "log.parquet")
    columns, stats = imported(tmp_path / "b", tokenizer, *mapping, tmp_path / "log.parquet")
    assert stats["bad_rows"] == 0
    assert rows_of(columns, "rollouts") == rows_of(text, "rollouts")
    assert rows_of(columns, "rewards") == rows_of(text, "rewards")


def test_a_parquet_file_of_many_row_groups_is_held_one_at_a_time(tmp_path: Path) -> None:
    """Asked for all row groups at once, Arrow would keep what it has decoded of each until the last one is read."""
    path, ids = tmp_path / "log.parquet", np.random.default_rng(0).integers(0, 50_000, 100 * 16_384, np.int32)
    lists = pa.ListArray.from_arrays(np.arange(0, len(ids) + 1, 16_384, dtype=np.int32), ids)
    with pq.ParquetWriter(path, pa.schema([("completion_ids", lists.type)])) as writer:
        for _ in range(12):
            writer.write_table(pa.table({"completion_ids": lists}))
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in columnar_rows(local_file(path), 2**20)]
    assert len(held) == 1_200
    assert max(held) < 4 * ids.nbytes


def test_a_value_that_python_cannot_hold_is_a_bad_row(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")]
    )
    years = pa.array([0, 2**60, 1], pa.timestamp("ms"))
    zone = pa.array([None, 1, None], pa.timestamp("s", "No/Such_Place"))
    for name, column in (("text", broken), ("time", years), ("zone", zone)):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"a": column}), path)
        found = list(read_rows([local_file(path)], 2**20))
        assert [row.data is None for row in found] == [False, True, False]
        assert "cannot be read" in (found[1].problem or "")


def test_two_fields_of_one_name_are_refused(tmp_path: Path) -> None:
    """Which of them is the prompt, nobody could tell."""
    pq.write_table(pa.Table.from_arrays([pa.array(["1+1="]), pa.array(["2+2="])], ["a", "a"]), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("a,b,a\n1+1=,2,2+2=\n")
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(TbrmError, match=f"{name}.*'a' is the name of more than one"):
            list(read_rows([local_file(tmp_path / name)], 2**20))
    (tmp_path / "b.csv").write_text("a,,\n1,,\n")
    assert [row.data for row in read_rows([local_file(tmp_path / "b.csv")], 2**20)] == [{"a": "1", "": ""}]


def saved(folder: Path, splits: list[str], files: list[str]) -> None:
    folder.mkdir()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    (folder / "train").mkdir()
    index = json.dumps({"_data_files": [{"filename": name} for name in files]})
    for place in (folder, folder / "train", folder.parent):
        (place / "state.json").write_text(index)


@pytest.mark.parametrize("name", ["..", ".", "/", "train/..", ""])
def test_a_split_that_is_the_folder_above(tmp_path: Path, name: str) -> None:
    saved(tmp_path / "saved", [name], ["secret.arrow"])
    (tmp_path / "secret.arrow").write_bytes(b"")
    with pytest.raises(TbrmError, match=r"dataset_dict\.json names"):
        find_files([str(tmp_path / "saved")])


@pytest.mark.parametrize("name", ["..", "", "train/.."])
def test_a_file_of_a_split_that_is_a_folder_above(tmp_path: Path, name: str) -> None:
    saved(tmp_path / "saved", ["train"], [name])
    with pytest.raises(TbrmError, match=r"state\.json names"):
        find_files([str(tmp_path / "saved")])


@pytest.mark.parametrize("link", ["file", "folder", "chain", "plain"])
def test_links_out_of_a_folder_are_not_followed(tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.arrow").write_bytes(b"")
    folder = tmp_path / "saved"
    if link == "plain":
        folder.mkdir()
        (folder / "log.jsonl").symlink_to(outside / "secret.arrow")
    else:
        saved(folder, ["train" if link != "folder" else "far"], ["secret.arrow"])
        (outside / "state.json").write_text((folder / "train" / "state.json").read_text())
        if link == "folder":
            (folder / "far").symlink_to(outside)
        else:
            target = outside / "secret.arrow"
            if link == "chain":
                (folder / "near.arrow").symlink_to(target)
                target = folder / "near.arrow"
            (folder / "train" / "secret.arrow").symlink_to(target)
    with pytest.raises(TbrmError, match=r"is a link out of .*saved"):
        find_files([str(folder)])


def test_links_inside_a_folder_and_those_of_the_hubs_cache_are(tmp_path: Path) -> None:
    saved(tmp_path / "saved", ["train"], ["data.arrow"])
    (tmp_path / "saved" / "kept.arrow").write_bytes(b"")
    (tmp_path / "saved" / "train" / "data.arrow").symlink_to("../kept.arrow")
    assert find_files([str(tmp_path / "saved")]) == [local_file(tmp_path / "saved" / "train" / "data.arrow")]
    cache = tmp_path / "hub" / "datasets--x"
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "123").write_text("{}")
    (snapshot / "log.jsonl").symlink_to("../../blobs/123")
    assert find_files([str(snapshot)]) == [local_file(snapshot / "log.jsonl")]


def test_an_index_too_large_to_be_one(tmp_path: Path) -> None:
    saved(tmp_path / "saved", ["train"], ["x" * 5_000_000])
    with pytest.raises(TbrmError, match="4 MiB"):
        find_files([str(tmp_path / "saved")])


def test_rows_seen_before_are_found_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_RECENT", 7)
    seen = Seen()
    hashes = [(n * 2**61 + n) % 2**64 for n in range(500)]
    assert all(seen.is_new(each) for each in hashes)
    assert not any(seen.is_new(each) for each in hashes)
    assert seen.is_new(2**64 - 1)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "elements"])
def test_reading_takes_linear_time(tmp_path: Path, kind: str) -> None:
    """One row that grows, or (`elements`) a file of ever more empty ones."""
    write: dict[str, tuple[str, Callable[[int], str]]] = {
        "jsonl": ("a.jsonl", lambda n: json.dumps({"a": ["x\n", [1], {}] * n})),
        "json": ("a.json", lambda n: json.dumps({"rows": [{"a": ['\\"', [1], {}] * n}]})),
        "csv": ("a.csv", lambda n: "a,b\n" + ",".join(['"x\n"'] * n)),
        "elements": ("b.json", lambda n: "[" + ",".join(["{}"] * n) + "]"),
    }
    name, make = write[kind]

    def read(text: str) -> None:
        (tmp_path / name).write_text(text)
        for _ in read_rows([local_file(tmp_path / name)], 2**24):
            pass

    assert exponent(make, read, 3_000) < LINEAR


def one_row(values: "pa.Array[Any]", offsets: list[int]) -> pa.RecordBatch:
    return pa.record_batch({"a": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)})


NESTED_COLUMNS: dict[str, Callable[[int], pa.RecordBatch]] = {
    "texts": lambda n: one_row(pa.array(["x" * 20] * n), [0, n]),
    "lists": lambda n: one_row(pa.array([["x"]] * n), [0, n]),
    "a dictionary": lambda n: one_row(pa.array([str(k) for k in range(n)]).dictionary_encode(), [0, n]),
    "runs": lambda n: one_row(
        pa.RunEndEncodedArray.from_arrays(pa.array(range(1, n + 1), pa.int32()), pa.array(["x"] * n)), [0, n]
    ),
    "views of lists": lambda n: pa.record_batch(
        {
            "a": pa.ListViewArray.from_arrays(
                pa.array([0] * n, pa.int32()), pa.array([n] * n, pa.int32()), pa.array(range(n))
            )
        }
    ),
    "views of texts": lambda n: one_row(pa.array(["x" * 20] * n, pa.string_view()), [0, n]),
    "objects": lambda n: one_row(pa.array([{"a": 1, "b": "x"}] * n), [0, n]),
    "rows": lambda n: pa.record_batch({"a": pa.array([["x"]] * n)}),
}


@pytest.mark.parametrize("name", list(NESTED_COLUMNS))
def test_columns_are_measured_in_linear_time(name: str) -> None:
    """Also where they stand for the square of what they hold, as lists that are views of each other do."""
    assert exponent(NESTED_COLUMNS[name], row_sizes, 20_000) < LINEAR


def test_prompts_without_their_special_tokens_are_read_in_linear_time(tokenizer_of_chats: Any) -> None:
    marks = chat_marks(tokenizer_of_chats)
    assert marks is not None

    def read(prompt: str) -> None:
        marks.without_tokens(prompt)
        marks.several_turns(prompt)
        with contextlib.suppress(BadField):
            marks.restored(prompt, tokenizer_of_chats)

    for unit in ("user\nx\nassistant\n", "\nassistant\n", "user\n", "x"):
        assert exponent(lambda n, unit=unit: f"user\n{unit * n}\nassistant\n", read, 5_000) < LINEAR


@pytest.fixture(scope="module")
def tokenizer_of_chats(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(chatml_folder(tmp_path_factory.mktemp("chatml")))
