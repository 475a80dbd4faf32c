"""`tbrm export`: what goes out comes in again as the same trajectories, and what would be learnt wrongly stays here."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from click.testing import CliRunner, Result

from pipeline.cli.main import tbrm
from pipeline.store import Store, open_store
from tests.support.chatml import chatml_folder
from tests.support.logs import imported, jsonl, rows_of, sample

ASKED = "<|im_start|>user\nWhat is {}?<|im_end|>\n<|im_start|>assistant\n"
TURNS = [
    {"role": "user", "content": "1+1"},
    {"role": "assistant", "content": "call"},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "It is 2."},
]
ROWS: list[dict[str, Any]] = [
    {"prompt": ASKED.format("1+1"), "response": "2", "reward": 1.0, "answer": "2", "prompt_id": "a"},
    {"prompt": ASKED.format("1+1"), "response": "3", "reward": 0.0, "answer": "2", "prompt_id": "a"},
    {
        "prompt": ASKED.format("1+1"),
        "response": "Well",
        "reward": -1.0,
        "answer": "2",
        "prompt_id": "a",
        "truncated": True,
    },
    {"prompt": ASKED.format("2+2"), "response": "4", "reward": 1.0, "answer": "4", "prompt_id": "b"},
    {"prompt": "What is 3+3?", "response": "6", "reward": 0.75, "answer": "6"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return chatml_folder(tmp_path_factory.mktemp("chatml"))


def exported(root: Path, target: Path, *arguments: str) -> Result:
    return CliRunner().invoke(tbrm, ["export", "logged/log", str(target), "--root", str(root), *arguments])


def lines(target: Path) -> list[Any]:
    return [json.loads(line) for line in (target / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def comparable(store: Store) -> tuple[Any, ...]:
    ignored = ("trajectory_id", "sampling")
    rollouts = [{k: v for k, v in row.items() if k not in ignored} for row in rows_of(store, "rollouts")]
    prompts = [{k: v for k, v in row.items() if k != "source"} for row in rows_of(store, "prompts")]
    return rollouts, prompts, [(row["reward"], sorted(row["components"])) for row in rows_of(store, "rewards")]


@pytest.mark.parametrize("name", ["text", "turns", "verifiers", "slime"])
def test_what_was_exported_imports_as_the_same_trajectories(tmp_path: Path, folder: str, name: str) -> None:
    rows = {"text": ROWS, "turns": [{"messages": TURNS, "reward": 0.5}]}.get(name) or sample(name)
    first, _ = imported(tmp_path / "a", folder, "--template", "raw", jsonl(tmp_path / "log.jsonl", rows))
    assert exported(tmp_path / "a", tmp_path / "out").exit_code == 0
    again, stats = imported(tmp_path / "b", folder, tmp_path / "out" / "data")
    assert stats["shape"] == "tbrm"
    assert comparable(again) == comparable(first)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, folder: str) -> Path:
    place = tmp_path_factory.mktemp("exported")
    arguments = [
        "import",
        "--name",
        "log",
        "--tokenizer",
        folder,
        "--policy",
        "somebody",
        "--root",
        str(place / "data"),
    ]
    result = CliRunner().invoke(tbrm, [*arguments, str(jsonl(place / "log.jsonl", ROWS))])
    assert result.exit_code == 0, result.output
    return place / "data"


def test_a_folder_is_a_data_set_with_a_card(root: Path, tmp_path: Path) -> None:
    assert exported(root, tmp_path / "out").exit_code == 0
    table = datasets.Dataset.from_parquet(
        str(tmp_path / "out" / "data" / "train-00000.parquet"), cache_dir=str(tmp_path)
    )
    assert table["reward"][:2] == [1.0, 0.0]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    manifest = open_store(str(root)).partition("logged/log", "rollouts").manifest()
    for told in ("license: other", "data_files: data/train-*.parquet", "`somebody`: 5 trajectories", manifest.hash):
        assert told in card
    assert any(name in card for name in manifest.parents)


def test_examples_for_fine_tuning(root: Path, tmp_path: Path) -> None:
    result = exported(root, tmp_path / "out", "--as", "sft", "--least-reward", "0.5", "--json")
    assert [line["completion"] for line in lines(tmp_path / "out")] == ["2", "4", "6"]
    assert json.loads(result.stdout)["left_out"] == {"responses below --least-reward": 2}


def test_preferences(root: Path, tmp_path: Path) -> None:
    exported(root, tmp_path / "pairs", "--as", "preference")
    assert lines(tmp_path / "pairs") == [{"prompt": ASKED.format("1+1"), "chosen": "2", "rejected": "3"}]
    exported(root, tmp_path / "kto", "--as", "unpaired")
    assert [line["label"] for line in lines(tmp_path / "kto")] == [True, False, True, True]


def test_prompts_for_verl(root: Path, tmp_path: Path) -> None:
    result = exported(root, tmp_path / "out", "--as", "verl", "--json")
    table = datasets.Dataset.from_parquet(
        str(tmp_path / "out" / "data" / "train-00000.parquet"), cache_dir=str(tmp_path)
    )
    (row,) = table
    assert row["prompt"] == [{"role": "user", "content": "What is 3+3?"}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": "6"}
    assert json.loads(result.stdout)["left_out"] == {"prompts that hold a chat template already": 2}


def test_what_cannot_be_exported_is_said_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert "exists already" in exported(root, tmp_path / "there").output
    assert "rewards@ours" in exported(root, tmp_path / "out", "--rewards", "ours").output
    assert "is not in" in exported(root, tmp_path / "out", "-g", "3").output
    assert "gives nothing" in exported(root, tmp_path / "out", "--as", "sft", "--least-reward", "9").output
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("name", ["x" * 300, "file/below", "link", "x" * 5_000])
def test_a_folder_that_cannot_be_made_is_told(root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    result = exported(root, tmp_path / name)
    assert result.exit_code == 1, result.exception
    assert result.output.startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_names_of_a_log_are_no_markup_in_the_card(tmp_path: Path, folder: str) -> None:
    name = "`x\n---\n# Heading\n<script>alert(1)</script> ![](http://attacker.example/a.png)`"
    log = jsonl(tmp_path / "![a](http:) `b` <img>.jsonl", [ROWS[0] | {"policy": name}])
    imported(tmp_path / "a", folder, "--template", "raw", "--map", "policy=policy", log)
    assert exported(tmp_path / "a", tmp_path / "out").exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for line in card.splitlines():
        outside = "".join(line.split("`")[::2])
        assert not any(sign in outside for sign in ("<script", "<img", "![", "# Heading")), line
    assert "- `'x --- # Heading <script>" in card
