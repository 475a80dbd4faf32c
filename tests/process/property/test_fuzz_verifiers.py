"""Responses as a model under optimization may write them: a status for each, in order, and nothing else happens."""

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.rewards import RewardsConfig
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import STATUSES, GradeItem

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
ATOMS = [
    *(
        "0",
        "1",
        "-1",
        "42",
        "007",
        "0.5",
        ".5",
        "25.",
        "1,234",
        "1 234",
        "1\\,234",
        "4.5e33",
        "10^{-9}",
        "1\\frac{3}{4}",
    ),
    *(
        "x",
        "y",
        "x_1",
        "\\pi",
        "e",
        "i",
        "\\infty",
        "-\\infty",
        "\\emptyset",
        "\\mathbb{R}",
        "25\\%",
        "30^\\circ",
        "101_2",
    ),
    *(
        "\\$5",
        "\\text{ cents}",
        "5\\text{ cm}^2",
        "3!",
        "|x|",
        "\\lfloor x\\rfloor",
        "\\binom{5}{2}",
        "\\overline{3}",
        "A",
    ),
    *(
        "\\text{no solution}",
        "\\cdots",
        "\\theta",
        "0/0",
        "1/0",
        "\\log_2 8",
        "\\sin x",
        "\\vec{a}",
        "N/A",
        "",
    ),
]
FORMS = [
    *(
        "%s+%s",
        "%s-%s",
        "%s\\cdot %s",
        "%s %s",
        "\\frac{%s}{%s}",
        "%s/%s",
        "%s^{%s}",
        "\\sqrt[%s]{%s}",
        "%s_{%s}",
        "%s\\%%%s",
    ),
    *(
        "(%s,%s)",
        "[%s,%s)",
        "(%s,%s]",
        "\\{%s,%s\\}",
        "%s,%s",
        "%s;%s",
        "%s=%s",
        "%s<%s",
        "%s\\le %s",
        "%s\\in %s",
        "%s\\ne %s",
    ),
    *(
        "%s\\cup %s",
        "%s\\pm %s",
        "%s \\text{ or } %s",
        "%s\\text{ and }%s",
        "%s\\approx %s",
        "%s:%s",
        "%s\\times 10^{%s}",
    ),
    *(
        "\\begin{pmatrix}%s&%s\\end{pmatrix}",
        "\\begin{cases}%s\\\\%s\\end{cases}",
        "\\left(%s\\right)%s",
        "f(%s)=%s",
        "{%s}{%s}",
    ),
    *(
        "\\langle %s,%s\\rangle",
        "\\sum_{k=1}^{%s}%s",
        "\\int_0^{%s}%s\\,dx",
        "(%s)(%s)",
        "%s\\mid %s",
        "\\text{%s}%s",
        "$%s$ %s",
    ),
]
EXPRESSIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.tuples(st.sampled_from(FORMS), inner, inner).map(lambda drawn: drawn[0] % drawn[1:]),
    max_leaves=7,
)
"""Answers of the kind that our readers read, put together in every way."""
RESPONSES = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=24).map("".join) | EXPRESSIONS.map(
    "So \\boxed{{{}}}.".format
)
ANSWERS = (
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
    | st.sampled_from(["42", "1/3", "A", "(-\\infty, 1]"])
    | EXPRESSIONS
)
RAISED = re.compile(r"[A-Z]\w+: |the grading process|the worker")
"""How the detail of a label begins whose verifier raised something or died: what our readers do not understand is wrong
or undecided, in words."""
VERIFIERS = ("math_verify", "exact_integer", "r1_format", "multiple_choice", "plain")
CONFIG = RewardsConfig(workers=1, timeout_s=5, cpu_s=1, row_verifiers=VERIFIERS)


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
        assert not RAISED.match(label.detail or ""), f"{label.detail}: {items[labels.index(label)]}"
