"""`tbrm import`: every usual format gives the same trajectories, bad rows are named, and nothing is half-written."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.store import open_store
from tests.support.logs import MAP, ROWS, imported, jsonl, rows_of, run_import

LOG = Path(__file__).parents[4] / "shared" / "data" / "logged" / "qwen25math1p5b_grpo_rollouts.raw.jsonl"


def as_csv(folder: Path) -> Path:
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return folder / "log.csv"


def as_gzip(folder: Path) -> Path:
    path = folder / "log.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    return path


def as_zstd(folder: Path) -> Path:
    path = folder / "log.jsonl.zst"
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    return path


def as_json(folder: Path) -> Path:
    (folder / "log.json").write_text(json.dumps(ROWS))
    return folder / "log.json"


@pytest.mark.parametrize("make", [as_csv, as_gzip, as_zstd, as_json], ids=lambda f: f.__name__[3:])
def test_every_format_gives_the_same_trajectories(tmp_path: Path, tokenizer: str, make: Callable[[Path], Path]) -> None:
    reference, _ = imported(tmp_path / "a", tokenizer, "--map", MAP, jsonl(tmp_path / "log.jsonl", ROWS))
    store, stats = imported(tmp_path / "b", tokenizer, "--map", MAP, make(tmp_path))
    assert (stats["trajectories"], stats["bad_rows"]) == (20, 0)
    assert rows_of(store, "rollouts") == rows_of(reference, "rollouts")
    assert [row["reward"] for row in rows_of(store, "rewards")] == [row["score"] for row in ROWS]


def test_text_is_tokenized_once_and_marked_so(tmp_path: Path, tokenizer: str) -> None:
    store, stats = imported(tmp_path / "a", tokenizer, "--map", MAP, jsonl(tmp_path / "log.jsonl", ROWS))
    first = rows_of(store, "rollouts")[0]
    assert stats["from tokenized text"] == 20
    assert len(first["response_token_ids"]) == len("It is 0.") + 1, "and the end of sequence"
    assert first["behavior_logprobs"] is None


def test_token_ids_of_the_log_are_kept(tmp_path: Path, tokenizer: str) -> None:
    rows = [
        {"prompt_ids": [1, 2], "completion_ids": [3, 4, 5 + i], "logprobs": [-0.5, -1.0, -0.25], "reward": 1.0}
        for i in range(3)
    ]
    store, _ = imported(tmp_path / "a", tokenizer, jsonl(tmp_path / "log.jsonl", rows))
    found = rows_of(store, "rollouts")
    assert [row["response_token_ids"] for row in found] == [[3, 4, 5], [3, 4, 6], [3, 4, 7]]
    assert found[0]["behavior_logprobs"] == [-0.5, -1.0, -0.25]


def test_a_conversation_with_a_tool_masks_what_the_policy_did_not_write(tmp_path: Path, tokenizer: str) -> None:
    messages = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "call(2+2)"},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "It is 4."},
    ]
    store, _ = imported(tmp_path / "a", tokenizer, jsonl(tmp_path / "log.jsonl", [{"messages": messages, "score": 1}]))
    (row,) = rows_of(store, "rollouts")
    mask, ids = row["response_mask"], row["response_token_ids"]
    assert len(mask) == len(ids)
    assert 0 < mask.count(False) < len(mask)
    assert mask[0] is True
    assert mask[-1] is True


BAD = [
    ({"question": "q", "completion": "", "gold": "1", "score": 1.0}, "response", "empty"),
    ({"question": "q", "completion": "a", "gold": "1", "score": "NaN"}, "reward", ""),
    ({"question": "q", "gold": "1", "score": 1.0}, "response", "missing"),
    ({"question": 7, "completion": "a", "gold": "1", "score": 1.0}, "prompt", ""),
    (ROWS[0], "", "duplicate"),
]


@pytest.mark.parametrize(("row", "field", "reason"), BAD, ids=[b[1] + b[2] + str(i) for i, b in enumerate(BAD)])
def test_a_bad_row_goes_to_quarantine_with_file_row_field_and_reason(
    tmp_path: Path, tokenizer: str, row: dict[str, Any], field: str, reason: str
) -> None:
    path = jsonl(tmp_path / "log.jsonl", [*ROWS, row])
    store, stats = imported(tmp_path / "a", tokenizer, "--map", MAP, path)
    (bad,) = rows_of(store, "quarantine")
    assert (bad["file"], bad["row"], bad["field"]) == (str(path), 21, field)
    assert reason in bad["reason"]
    assert (stats["rows"], stats["trajectories"], stats["bad_rows"] + stats["repeated_rows"]) == (21, 20, 1)


def test_rows_that_cannot_be_read_are_named_too(tmp_path: Path, tokenizer: str) -> None:
    path = jsonl(tmp_path / "log.jsonl", ROWS)
    with path.open("ab") as file:
        file.write(b'{"question": "\xff"}\n' + b"not json\n" + b"[1]\n")
        file.write(json.dumps(ROWS[0] | {"completion": "x" * 50_000}).encode() + b"\n")
        file.write(b"[" * 100_000 + b"\n")
    store, stats = imported(
        tmp_path / "a", tokenizer, "--map", MAP, "--max-bad-share", "0.5", "--max-row-mb", "0.04", path
    )
    reasons = {row["row"]: row["reason"] for row in rows_of(store, "quarantine")}
    assert stats["bad_rows"] == 5
    assert "UTF-8" in reasons[21]
    assert "not JSON" in reasons[22]
    assert "not an object" in reasons[23]
    assert "MiB" in reasons[24]
    assert 25 in reasons


def test_too_many_bad_rows_stop_before_anything_is_committed(tmp_path: Path, tokenizer: str) -> None:
    path = jsonl(tmp_path / "log.jsonl", [*ROWS, *({"question": "q", "score": i} for i in range(5))])
    result = run_import(tmp_path / "a", tokenizer, "--map", MAP, path)
    assert result.exit_code == 1
    assert "5 of 25 rows are bad" in result.output
    assert "row 21" in result.output
    assert open_store(str(tmp_path / "a")).generations("logged/log", "rollouts") == []


def test_a_truncated_file_is_named(tmp_path: Path, tokenizer: str) -> None:
    path = as_gzip(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    result = run_import(tmp_path / "a", tokenizer, "--map", MAP, path)
    assert result.exit_code == 1
    assert "log.jsonl.gz" in result.output


def test_a_token_outside_the_vocabulary_means_another_tokenizer(tmp_path: Path, tokenizer: str) -> None:
    rows = [{"prompt_ids": [1, 2], "completion_ids": [3, i], "reward": 1.0} for i in (4, 5, 999_999)]
    arguments = ("--max-bad-share", "0.5", jsonl(tmp_path / "log.jsonl", rows))
    store, _ = imported(tmp_path / "a", tokenizer, *arguments)
    (bad,) = rows_of(store, "quarantine")
    assert "outside the vocabulary" in bad["reason"]


def test_what_cannot_be_guessed_is_asked_for(tmp_path: Path, tokenizer: str) -> None:
    path = jsonl(tmp_path / "log.jsonl", [{"alpha": "x", "beta": "y"}])
    result = run_import(tmp_path / "a", tokenizer, path)
    assert result.exit_code == 1
    assert "--map prompt=FIELD" in result.output
    result = run_import(tmp_path / "a", tokenizer, "--map", "prompt=nowhere", path)
    assert "the first row has no 'nowhere'" in result.output


def test_again_is_no_work(tmp_path: Path, tokenizer: str) -> None:
    path = jsonl(tmp_path / "log.jsonl", ROWS)
    imported(tmp_path / "a", tokenizer, "--map", MAP, path)
    result = run_import(tmp_path / "a", tokenizer, "--map", MAP, path)
    assert json.loads(result.stdout)["skipped"]


KNOWN = {
    "verl": {"input": "q", "output": "a", "gts": "1", "score": 1.0, "step": 3},
    "trl": {"step": 1, "prompt": "q", "completion": "a", "accuracy_reward": 1.0, "advantage": 0.3},
}


@pytest.mark.parametrize("name", list(KNOWN))
def test_known_shapes_need_no_map(tmp_path: Path, tokenizer: str, name: str) -> None:
    store, stats = imported(
        tmp_path / "a", tokenizer, "--template", "raw", jsonl(tmp_path / "log.jsonl", [KNOWN[name]])
    )
    assert name in str(stats["shape"]).lower()
    assert rows_of(store, "rewards")[0]["reward"] == 1.0


@pytest.mark.skipif(not LOG.is_file(), reason="the logged rollouts lie beside the checkout on some machines only")
def test_real_logs_of_another_project_import_with_one_command(tmp_path: Path, tokenizer: str) -> None:
    _, stats = imported(tmp_path / "a", tokenizer, "--policy", "qwen-grpo", LOG)
    assert stats["trajectories"] + stats["bad_rows"] == stats["rows"] == 3_200
    assert stats["bad_rows"] == 0
    assert stats["reward_mean"] == pytest.approx(2_015 / 3_200)
