"""What people read: the paper's rows beside ours, the list of benchmarks, the help of every command."""

import json

import pytest
from click.testing import CliRunner

from evals.report.leaderboard import paper_markdown
from pipeline.cli.main import tbrm
from pipeline.rewards.golds import counted


def test_the_papers_rows_stand_under_the_benchmarks_they_measure() -> None:
    text = paper_markdown(["math500", "aime24", "heldout", "gym_quantum_lock"])
    assert "|  | aime24 | math500 |" in text
    assert "| 7B TBRM n=4 | 30.5 | 79.8 |" in text
    assert "| 1.5B GRPO | 30.5 |" in text
    assert paper_markdown(["heldout"]) == ""


def test_benchmarks_are_listed_without_a_download() -> None:
    listed = {one["name"]: one for one in json.loads(CliRunner().invoke(tbrm, ["benchmarks", "--json"]).output)}
    assert listed["aime24"]["protocol"] == {"samples": 32, "temperature": 1.0}
    assert listed["math500"]["protocol"] == {"samples": 1, "temperature": 0.0}
    assert listed["math500"]["origin"] == "HuggingFaceH4/MATH-500@6e4ed1a2a79a"
    assert listed["olympiadbench"]["expected_rows"] == [675, 674]
    assert listed["math500"]["rows"] is None
    assert "MATH500" in CliRunner().invoke(tbrm, ["benchmarks"]).output


def test_one_gold_answer_is_counted_in_the_singular() -> None:
    assert counted(1) == "1 gold answer is not understood"
    assert counted(1_200) == "1,200 gold answers are not understood"


@pytest.mark.parametrize("command", ["evaluate", "regrade", "compare", "leaderboard", "benchmarks", "report"])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(tbrm, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage: tbrm" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of POLICY"),
        (["--generation", "1"], "need --experiment"),
        (["somewhere", "--set", "a=1"], "--set needs --experiment"),
        (["somewhere", "--generation", "1"], "give one of POLICY"),
    ],
)
def test_wrong_options_are_told(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(tbrm, ["evaluate", *arguments])
    assert result.exit_code == 2
    assert message in result.output
