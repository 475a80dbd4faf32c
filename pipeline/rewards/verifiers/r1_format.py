"""DeepSeek-R1 format: the prompt opens <think>, the response closes it and answers in <answer> tags for Math-Verify."""

import functools
import re

from pipeline.rewards.text import LONGEST_SEARCHED
from pipeline.rewards.types import DEFAULT, Conventions, Extra, RewardLabel, Verifier, wrong_format
from pipeline.rewards.verifiers import math_verify

_TAGS = ("</think>", "<answer>", "</answer>")
_BETWEEN = re.compile(r"</think>\s*<answer>")


def tagged_answer(response: str) -> str | None:
    """Text inside `<answer>`, or None unless each tag stands once, in order, the last at the end of the response."""
    response = response[-LONGEST_SEARCHED:].rstrip()
    if any(response.count(tag) != 1 for tag in _TAGS) or not response.endswith("</answer>"):
        return None
    opened = _BETWEEN.search(response)
    return response[opened.end() : -len("</answer>")].strip() if opened else None


def reduce(response: str, conventions: Conventions = DEFAULT) -> str:
    """The answer as Math-Verify's verifier reduces it, marked by a leading `=`; empty when the format is wrong."""
    answer = tagged_answer(response)
    if answer is None:
        return ""
    return "=" + math_verify.with_percent_said(response, math_verify.reduce_told(answer), conventions)


def shortcut(reduced: str, answer: str, require_boxed: bool, conventions: Conventions = DEFAULT) -> RewardLabel | None:
    del require_boxed  # the tags take the place of the box
    if not reduced:
        return wrong_format("the response is not `… </think> <answer> … </answer>`")
    found = math_verify.shortcut(reduced[1:], answer, require_boxed=False, conventions=conventions)
    return _in_format(found) if found else None


def grade(response: str, answer: str, extra: Extra, conventions: Conventions = DEFAULT) -> RewardLabel:
    return _in_format(math_verify.grade(response[1:], answer, extra, conventions))


def _in_format(label: RewardLabel) -> RewardLabel:
    """The tags are the format that is asked for; a box in them is not."""
    if label.status != "ok":
        return label
    parts = {**label.components, "format": 1.0}
    return RewardLabel(label.reward, "ok", label.extracted_answer, label.detail, parts)


def verifier(conventions: Conventions) -> Verifier:
    """The verifier under these conventions."""
    return Verifier(
        "r1_format",
        f"{math_verify.verifier(conventions).version}/2",
        functools.partial(grade, conventions=conventions),
        functools.partial(reduce, conventions=conventions),
        functools.partial(shortcut, conventions=conventions),
    )


VERIFIER = verifier(DEFAULT)
