"""inspect, show, sql and lineage on a store made by hand: what they say is what is there."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli.main import tbrm
from pipeline.store import open_store
from pipeline.terminal import visible

ESCAPE = "\x1b[31mred\x1b[0m \u202eback"
ROWS = [
    {"prompt": f"What is {i}?", "response": f"{i} {ESCAPE}", "answer": str(i), "reward": float(i % 2), "note": "x"}
    for i in range(12)
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tokenizer: str) -> str:
    folder = tmp_path_factory.mktemp("viewed")
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    arguments = ["import", "--name", "log", "--tokenizer", tokenizer, "--policy", "other", str(path)]
    result = CliRunner().invoke(tbrm, [*arguments, "--root", str(folder / "data"), "--rows-per-shard", "5"])
    assert result.exit_code == 0, result.output
    relabelled = ["rewards", "-e", "arith_tiny", "--logged", "log", "--label", "ours", "--root", str(folder / "data")]
    result = CliRunner().invoke(tbrm, relabelled)
    assert result.exit_code == 0, result.output
    return str(folder / "data")


def call(root: str, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(tbrm, [*arguments, "--root", root])
    assert result.exit_code == code, result.output
    return result.output


def test_inspect_counts_and_compares_label_versions(root: str) -> None:
    found: dict[str, Any] = json.loads(call(root, "inspect", "logged/log", "--json"))
    assert {t["table"]: (t["rows"], t["shards"]) for t in found["tables"]}["rollouts"] == (12, 3)
    assert found["generations"][0]["behaviour_policies"] == {"other": 12}
    assert found["rewards"]["rewards"]["mean"] == 0.5
    agreement = found["agreement"][0]
    assert sum(agreement[k] for k in ("both", "neither", "only rewards", "only rewards@ours")) == 12
    assert "histogram" in found["rewards"]["rewards@ours"]
    assert "logged/log" in call(root, "inspect")
    assert "there is no 'nothing'" in call(root, "inspect", "nothing", code=1)


def test_sql_joins_what_belongs_together_and_touches_nothing_else(root: str) -> None:
    asked = call(root, "sql", "select answer, reward, label from trajectories order by sample_index", "--json")
    rows = json.loads(asked)
    assert [(row["answer"], row["reward"]) for row in rows] == [(r["answer"], r["reward"]) for r in ROWS]
    versions = call(root, "sql", "select label, count(*) as n from rewards group by 1 order by 1", "--json")
    assert json.loads(versions) == [{"label": "", "n": 12}, {"label": "ours", "n": 12}]
    for query in (
        "select * from read_text('/etc/hostname')",
        "copy rewards to '/tmp/x.csv'",
        "set threads=64",
        "selekt",
    ):
        assert "error" in call(root, "sql", query, code=1)


def test_show_finds_a_trajectory_and_disarms_its_text(root: str) -> None:
    line = call(root, "sql", "select trajectory_id from rollouts where sample_index = 7", "--json")
    trajectory = json.loads(line)[0]["trajectory_id"]
    shown = call(root, "show", trajectory)
    assert "What is 7?" in shown
    assert "other" in shown
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown
    assert "\\x1b[31mred" in shown
    found = json.loads(call(root, "show", trajectory, "--json"))
    assert (found["shard"], found["row"], found["reward"]) == (1, 2, 1.0)
    assert {label["table"] for label in found["labels"]} == {"rewards", "rewards@ours"}
    assert "there is no trajectory" in call(root, "show", "0" * 32, code=1)


def test_lineage_names_parents_and_notices_a_change(root: str) -> None:
    name = "logged/log/rewards@ours/generation=0000"
    found = json.loads(call(root, "lineage", name, "--json"))
    rollouts = next(p for p in found["parents"] if p["name"] == "logged/log/rollouts/generation=0000")
    assert rollouts["behaviour policy"] == "other"
    assert any("log.jsonl" in parent["name"] for parent in rollouts["parents"])
    assert "changed" not in rollouts
    store = open_store(root)
    partition = store.partition("logged/log", "prompts")
    rows = [table for _, table in partition.iter_shards()]
    with partition.writer("other", {}, replace=True) as writer:
        for index, table in enumerate(rows):
            writer.write(index, table.slice(0, 1))
        writer.commit(len(rows))
    found = json.loads(call(root, "lineage", name, "--json"))
    prompts = next(p for p in found["parents"] if p["name"] == "logged/log/prompts/generation=0000")
    assert "now" in prompts["changed"]
    assert "names nothing" in call(root, "lineage", "nothing", code=1)


def test_visible_keeps_ordinary_text() -> None:
    assert visible("é ∑ 漢\n\tx") == "é ∑ 漢\n\tx"
    assert visible("\x9b2J\x07\u200b") == "\\x9b2J\\x07\\u200b"
    assert Path(visible("a/b")).name == "b"


def test_an_empty_query_is_an_error_of_ours(root: str) -> None:
    result = CliRunner().invoke(tbrm, ["sql", " ", "--root", root])
    assert result.exit_code == 1
    assert result.output.startswith("error: the query is empty")
