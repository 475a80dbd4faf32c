"""Responses as a model under optimization may write them: a status for each, in order, and nothing else happens."""

import math

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.rewards import RewardsConfig
from pipeline.rewards import GradeItem, Grader
from pipeline.rewards.types import STATUSES

PIECES = [
    *(
        "\\boxed{",
        "}",
        "{",
        "$",
        "$$",
        "\\frac{",
        "\\sqrt[",
        "]{",
        "\\left(",
        "\\right)",
        "^{",
        "_",
        "\\text{",
        "\\pm",
        "\\%",
    ),
    *(
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "&",
        "\\\\",
        "\\infty",
        "\\in",
        "\\cup",
        "[",
        ")",
        ",",
        ";",
        "!",
        "^",
        "**",
        "e^",
    ),
    *("1", "0", "42", "-1", "1/3", "0.1", "3.14", "1,000", "x", "y=", "<think>", "</think>", "<answer>", "</answer>"),
    *(
        "The answer is ",
        "Answer: ",
        "(A)",
        "A",
        "true",
        "\x00",
        "\ud800",
        "\u202e",
        "٣",
        "½",
        " ",
        "\n",
        "\\sum_{i=1}^{9}",
    ),
]
RESPONSES = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=24).map("".join)
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.sampled_from(
    ["42", "1/3", "A", "(-\\infty, 1]"]
)
VERIFIERS = ("math_verify", "exact_integer", "r1_format", "multiple_choice", "plain")
CONFIG = RewardsConfig(workers=1, timeout_s=5, cpu_s=3, row_verifiers=VERIFIERS)


@given(st.lists(st.tuples(RESPONSES, ANSWERS, st.sampled_from(VERIFIERS)), min_size=5, max_size=40))
def test_every_response_gets_a_label(drawn: list[tuple[str, str, str]]) -> None:
    items = [GradeItem(response, answer, verifier) for response, answer, verifier in drawn]
    control = GradeItem("so \\boxed{42}", "42", "math_verify")
    with Grader(CONFIG) as grader:
        labels = list(grader.grade([*items, control]))
    assert len(labels) == len(items) + 1
    assert labels[-1].reward == 1.0, "what stands before a sound response does it no harm"
    for label in labels:
        assert label.status in STATUSES
        assert math.isfinite(label.reward)
        assert 0.0 <= label.reward <= 1.0
        assert label.reward == 0.0 or label.status == "ok"
