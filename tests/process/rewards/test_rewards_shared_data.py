"""Agreement with labels of others, on data that lies beside the checkout and is no part of the project."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.rewards import RewardsConfig
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no {DATA}: public math data for tests")


def rows_of(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / file).read_text().splitlines()]


def confusion(run: str, config: RewardsConfig) -> tuple[Counter[tuple[bool, bool]], dict[tuple[bool, bool], list[int]]]:
    rows = [
        (n, row) for n, row in enumerate(rows_of("logged/qwen25math1p5b_grpo_rollouts.jsonl")) if run in row["policy"]
    ]
    cells: dict[tuple[bool, bool], list[int]] = {}
    with Grader(config) as grader:
        labels = grader.grade(GradeItem(row["response"], row["answer"]) for _, row in rows)
        for (number, row), label in zip(rows, labels, strict=True):
            cells.setdefault((row["is_correct"], label.reward > 0.5), []).append(number)
    return Counter({cell: len(found) for cell, found in cells.items()}), cells


def test_boxed_answers_agree_with_the_logged_labels() -> None:
    counts, cells = confusion("question_only", RewardsConfig(require_boxed=True))
    assert counts == {(True, True): 1_257, (False, False): 339, (False, True): 3, (True, False): 1}
    assert cells[True, False] == [3_090]  # three values in one box: the upstream label is wrong
    assert cells[False, True] == [1_649, 1_651, 1_653]  # 10001 for 10001_2: a base may be left out


def test_r1_answers_agree_with_the_logged_labels() -> None:
    counts, _ = confusion("on_policy", RewardsConfig(verifier="r1_format"))
    assert counts == {(True, True): 757, (False, False): 817, (False, True): 26}


@pytest.mark.parametrize(
    "file",
    [
        "benchmarks/aime24.jsonl",
        "benchmarks/aime25.jsonl",
        "benchmarks/amc23.jsonl",
        "benchmarks/math500.jsonl",
        "benchmarks/minerva_math.jsonl",
        "benchmarks/olympiadbench.jsonl",
        "prompts/aime_1983_2023.jsonl",
        "prompts/dapo_math_17k.jsonl",
        "prompts/gsm8k_train.jsonl",
        "prompts/math_lvl3to5_8k.jsonl",
    ],
)
def test_every_gold_answer_is_right_against_itself(file: str) -> None:
    rows = rows_of(file)
    with Grader(RewardsConfig()) as grader:
        labels = grader.grade(GradeItem(f"\\boxed{{{row['answer']}}}", row["answer"]) for row in rows)
        assert [row["id"] for row, label in zip(rows, labels, strict=True) if label.reward != 1.0] == []
