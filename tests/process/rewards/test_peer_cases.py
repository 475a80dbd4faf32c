"""The cases that other projects keep for their verifiers, where they are present; nothing of them is copied here."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.rewards import RewardConventions, RewardsConfig
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem

CASES = Path(__file__).resolve().parents[4] / "shared" / "data" / "peer_cases" / "verifier"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases of other projects in {CASES}")

REWARDED = {
    "Math-Verify-0187": "an inequality for an interval; the same pair of texts is right in Math-Verify-0186",
    "AReaL-0054": "the gold answer is a sentence that ends in the same value; upstream reads no sentence",
}
"""Rewarded though upstream says wrong."""
REFUSED = {
    "Skills-0035": "25% for 25: a convention, `rewards.conventions.percent_is_the_number`",
    "Skills-0037": "the same",
    "open-instruct-0004": "the same",
    "math-0021": "the same",
    "Math-Verify-0035": "a false equation of two numbers, of which upstream takes the last",
    "lighteval-0034": "the same case",
    "Math-Verify-0109": "a gold answer that contradicts itself",
    "Math-Verify-0190": "two boxes with plus signs between them as a gold answer",
}
"""Refused though upstream says right."""


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(CASES.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]


def test_the_cases_of_other_projects() -> None:
    found = [case for case in cases() if case["expected"] is not None]
    with Grader(RewardsConfig(workers=2)) as grader:
        labels = list(grader.grade(GradeItem(case["response"], case["answer"]) for case in found))
    rewarded = {c["id"] for c, label in zip(found, labels, strict=True) if label.reward > 0.5 and not c["expected"]}
    refused = {c["id"] for c, label in zip(found, labels, strict=True) if label.reward <= 0.5 and c["expected"]}
    assert rewarded <= set(REWARDED), rewarded - set(REWARDED)
    assert refused <= set(REFUSED), refused - set(REFUSED)
    undecided = [c["id"] for c, label in zip(found, labels, strict=True) if label.status in ("timeout", "memory")]
    assert set(undecided) <= {"inspect_ai-0092"}  # 2^(2^(2^(2^49))): wrong, and nobody writes it out


def test_percentages_of_other_projects_are_right_by_their_convention() -> None:
    wanted = [
        case
        for case in cases()
        if REFUSED.get(case["id"], "").startswith(("25%", "the same")) and "%" in case["response"]
    ]
    config = RewardsConfig(workers=1, conventions=RewardConventions(percent_is_the_number="always"))
    with Grader(config) as grader:
        labels = list(grader.grade(GradeItem(case["response"], case["answer"]) for case in wanted))
    assert wanted
    assert all(label.reward == 1.0 for label in labels)
