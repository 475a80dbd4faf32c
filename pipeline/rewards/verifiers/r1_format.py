"""DeepSeek-R1 format: the prompt opens <think>, the response closes it and answers in <answer> tags for Math-Verify."""

import re

from pipeline.rewards.text import LONGEST_SEARCHED
from pipeline.rewards.types import Extra, RewardLabel, Verifier, wrong_format
from pipeline.rewards.verifiers import math_verify

_TAGS = ("</think>", "<answer>", "</answer>")
_SENTENCE = re.compile(r"\$|\\[(\[]|(?<![\\A-Za-z{])[A-Za-z]{2,}")
_BETWEEN = re.compile(r"</think>\s*<answer>")


def tagged_answer(response: str) -> str | None:
    """Text inside `<answer>`, or None unless each tag stands once, in order, the last at the end of the response."""
    response = response[-LONGEST_SEARCHED:].rstrip()
    if any(response.count(tag) != 1 for tag in _TAGS) or not response.endswith("</answer>"):
        return None
    opened = _BETWEEN.search(response)
    return response[opened.end() : -len("</answer>")].strip() if opened else None


def reduce(response: str) -> str:
    """The answer as Math-Verify's verifier reduces it, marked by a leading `=`; empty when the format is wrong."""
    answer = tagged_answer(response)
    if answer is None:
        return ""
    inner = math_verify.reduce(answer)
    # A bare expression is boxed, so that all of it is parsed; in a sentence Math-Verify looks for the formula.
    bare = not inner.startswith(math_verify.BOX) and not _SENTENCE.search(answer)
    return "=" + (f"{math_verify.BOX}{answer}}}" if bare else inner)


def shortcut(reduced: str, answer: str, require_boxed: bool) -> RewardLabel | None:
    del require_boxed  # the tags take the place of the box
    if not reduced:
        return wrong_format("the response is not `… </think> <answer> … </answer>`")
    return math_verify.shortcut(reduced[1:], answer, require_boxed=False)


def grade(response: str, answer: str, extra: Extra) -> RewardLabel:
    return math_verify.grade(response[1:], answer, extra)


VERIFIER = Verifier("r1_format", f"{math_verify.VERIFIER.version}/1", grade, reduce, shortcut)
