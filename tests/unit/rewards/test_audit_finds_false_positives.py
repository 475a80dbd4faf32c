"""Rewards that should not have been paid are planted in a generation, and the audit lists every one of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.rewards.audit import Audit, audit_experiment
from pipeline.store import SCHEMAS, open_store
from tests.support.reward_store import SAMPLING, experiment

PLANTED = [
    ("\\boxed{1.6\\times 10^{-19}}", "6.63\\times 10^{-34}", "math_verify"),
    ("\\boxed{\\frac{1}{2006!}}", "\\frac{1}{2004!}", "math_verify"),
    ("It is 42 in the text.\n<answer>43</answer>", "42", "math_verify"),
    ("<think>So \\boxed{42}.</think> I am done.", "42", "math_verify"),
    ("<think>So \\boxed{42}.</think> I am done after 7 steps.", "42", "math_verify"),
    ("First \\boxed{42}, and then \\boxed{43", "42", "math_verify"),
    ("so</think> <answer>43 or 42</answer>", "42", "r1_format"),
    ("so</think> <answer>not 42</answer>", "42", "r1_format"),
    ("\\boxed{0 or 1 or 25}", "25", "math_verify"),
    ("\\boxed{24, 25}", "25", "math_verify"),
    ("\\boxed{24 \\text{ or } 25}", "25", "math_verify"),
    ("\\boxed{5} or \\boxed{6}", "6", "math_verify"),
    ("\\boxed{52_9}", "52_8", "math_verify"),
    ("\\boxed{90 \\text{ radians}}", "90^\\circ", "math_verify"),
    ("\\boxed{15\\text{ m}^2}", "15\\mbox{ cm}^2", "math_verify"),
    ("\\boxed{\\neq 25}", "25", "math_verify"),
    ("\\boxed{25\\%}", "25", "math_verify"),
    ("\\boxed{Eq(x**2/16 + y**2/12, 1)}", "Eq(x**2/4 + y**2/3, 1)", "math_verify"),
    ("\\boxed{5 \\approx 6}", "5", "math_verify"),
    ("\\boxed{2}", "\\hbar \\omega (v + 1/2)", "math_verify"),
    ("\\boxed{1/m}", "\\frac{1}{m} t", "math_verify"),
    ("\\boxed{0}", "(-\\infty, 0) \\cup \\{1\\}", "math_verify"),
    ("\\boxed{1=0}", "N=n", "math_verify"),
    ("The final answer is \\boxed{42}.\nFinal Answer: The final answer is $43$.", "42", "math_verify"),
    ("\\boxed{25 \\text{ million}}", "25", "exact_integer"),
]
HONEST = [
    ("\\boxed{25}", "25"),
    ("\\boxed{25.0}", "25"),
    ("\\boxed{25\\%}", "25\\%"),
    ("\\boxed{25\\%}", "0.25"),
    ("\\boxed{\\$25}", "25"),
    ("\\boxed{25 dollars}", "25"),
    ("\\boxed{2, 1}", "1, 2"),
    ("\\boxed{1 \\text{ and } 2}", "2, 1"),
    ("\\boxed{\\{1, 2\\}}", "1,2"),
    ("\\boxed{1\\frac{4}{5}}", "\\frac{9}{5}"),
    ("\\boxed{1\\frac{4}{5}}", "1.8"),
    ("\\boxed{1\\,234}", "1,234"),
    ("\\boxed{4.5 \\times 10^{33}}", "4.5e33"),
    ("\\boxed{0.3333333}", "\\frac13"),
    ("\\boxed{x = 3 \\pm 1}", "2, 4"),
    ("\\boxed{25^\\circ}", "25"),
    ("\\boxed{2\\sqrt{3}}", "\\sqrt{12}"),
    ("so <answer>25</answer>", "25"),
    ("so it is 25", "25"),
]


def audited(folder: Path, rows: list[tuple[str, str, str]], correct: float) -> Audit:
    """The audit of a generation whose labels all say `correct`."""
    store = open_store(str(folder))
    numbered = list(enumerate(rows))
    prompts: list[dict[str, Any]] = [
        {
            "prompt_id": f"p{n}",
            "prompt_text": "?",
            "prompt_token_ids": [n],
            "answer": answer,
            "verifier": "",
            "source": "test",
            "extra": "{}",
        }
        for n, (_, answer, _) in numbered
    ]
    rollouts: list[dict[str, Any]] = [
        {
            "trajectory_id": f"t{n:03d}",
            "prompt_id": f"p{n}",
            "sample_index": 0,
            "prompt_token_ids": [n],
            "response_token_ids": [1],
            "response_text": response,
            "finish_reason": "stop",
            "policy_id": "none",
            "generation": 0,
            "sampling": SAMPLING,
        }
        for n, (response, _, _) in numbered
    ]
    labels: list[dict[str, Any]] = [
        {
            "trajectory_id": f"t{n:03d}",
            "reward": correct,
            "status": "ok",
            "extracted_answer": None,
            "verifier": verifier,
            "verifier_version": "0",
            "detail": None,
            "components": [("correctness", correct), ("format", 1.0)],
            "token_rewards": None,
        }
        for n, (_, _, verifier) in numbered
    ]
    for table, records in (("prompts", prompts), ("rollouts", rollouts), ("rewards", labels)):
        with store.partition("toy", table, 0).writer("h", {}) as writer:
            writer.write(0, pa.Table.from_pylist(records, SCHEMAS[table]))
            writer.commit(1)
    (found,) = audit_experiment(experiment(), store, [], None, 500)
    return found


def test_every_planted_false_positive_is_found(tmp_path: Path) -> None:
    found = audited(tmp_path, PLANTED, correct=1.0)
    missed = sorted({f"t{n:03d}" for n in range(len(PLANTED))} - {line.trajectory_id for line in found.rewarded})
    assert not missed, [PLANTED[int(name[1:])] for name in missed]


def test_honest_answers_are_no_noise(tmp_path: Path) -> None:
    found = audited(tmp_path, [(*pair, "math_verify") for pair in HONEST], correct=1.0)
    assert not found.rewarded, [(line.answer, line.second_answer, line.second_detail) for line in found.rewarded]


@pytest.mark.parametrize(("response", "answer", "verifier"), PLANTED)
def test_the_verifiers_do_not_pay_for_them_either(response: str, answer: str, verifier: str) -> None:
    from pipeline.config.rewards import BUILTIN_VERIFIERS, RewardsConfig
    from pipeline.rewards.grader import Grader
    from pipeline.rewards.types import GradeItem

    with Grader(RewardsConfig(row_verifiers=BUILTIN_VERIFIERS, workers=1)) as grader:
        (label,) = grader.grade([GradeItem(response, answer, verifier)])
    assert label.reward == 0.0
    assert label.status in ("ok", "wrong_format"), label
