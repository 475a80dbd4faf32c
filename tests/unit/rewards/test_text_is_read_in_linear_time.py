"""What reads responses in the calling process takes time in proportion to their length, whatever they hold."""

import math
import time
from collections.abc import Callable

import pytest

from pipeline.rewards.answers.compare import fault
from pipeline.rewards.answers.numbers import read_number
from pipeline.rewards.answers.reading import plain, read
from pipeline.rewards.text import boxes, boxes_of_one_sentence, final_boxes, stated, stated_finally, strip_nested
from pipeline.rewards.verifiers import exact_integer, math_verify, multiple_choice, r1_format
from pipeline.rewards.verifiers.reasoning_gym import extract

SIZES = (1, 2, 4, 8)
LONGEST_UNIT = 9_000
"""Characters of the smallest text at least; eight times as many stay below the 100,000 that are searched."""

INPUTS: dict[str, tuple[Callable[[str], object], Callable[[int], str]]] = {
    "nested boxes, stripped": (strip_nested, lambda n: "\\boxed{" * (n // 8) + "5" + "}" * (n // 8)),
    "nested boxes, found": (boxes, lambda n: "\\boxed{" * (n // 8) + "5" + "}" * (n // 8)),
    "nested boxes, final": (final_boxes, lambda n: "\\boxed{" * (n // 8) + "5" + "}" * (n // 8)),
    "boxes side by side": (final_boxes, lambda n: "\\boxed{5}" * (n // 9)),
    "boxes never closed": (final_boxes, lambda n: "\\boxed{" * (n // 7)),
    "units": (plain, lambda n: "x" + "\\text{cm}" * (n // 9)),
    "units after a digit": (read, lambda n: "5" + "\\text{cm}^{2}" * (n // 13)),
    "brackets never closed": (read, lambda n: "(" * n),
    "a list": (read, lambda n: "1," * (n // 2)),
    "digits": (read_number, lambda n: "1" * n + "x"),
    "a gold answer": (fault, lambda n: "{" * n),
    "boxes of a sentence": (boxes_of_one_sentence, lambda n: "\\boxed{5} and " * (n // 14)),
    "final answers": (stated_finally, lambda n: "final answer" + " " * n + "final answer:" * (n // 13)),
    "answers": (stated, lambda n: "answer is" + " " * n + "answer:" * (n // 7)),
    "boxes without braces": (math_verify.reduce, lambda n: "\\boxed" + " " * n + "\\boxed " * (n // 7)),
    "spaces around a letter": (multiple_choice.one_letter, lambda n: "$" + " " * n + "a" + " " * n + "!$"),
    "spaces before a letter": (multiple_choice.one_letter, lambda n: "$" + " " * n + "!$"),
    "choices in a box": (multiple_choice.reduce, lambda n: "\\boxed{A" + " " * n + "x}"),
    "an integer": (exact_integer.to_integer, lambda n: "1." + "0" * n + "x"),
    "zeros": (exact_integer.reduce, lambda n: "\\boxed{" + "0,000" * (n // 5) + "}"),
    "answer tags": (r1_format.reduce, lambda n: "</think>" + " " * n + "<answer>" + "$" * n + "</answer>"),
    "tags of reasoning-gym": (extract, lambda n: "<answer>" * (n // 8) + "</answer>"),
    "math": (math_verify.reduce, lambda n: "\\fbox {" * (n // 7) + "}" * (n // 7)),
}


def seconds(read: Callable[[str], object], text: str) -> float:
    """Processor seconds of one reading: the least of several, since other work only adds to it."""
    found = math.inf
    for _ in range(5):
        started = time.process_time()
        read(text)
        found = min(found, time.process_time() - started)
    return found


@pytest.mark.parametrize("name", INPUTS)
def test_the_growth_exponent_is_one(name: str) -> None:
    read, text = INPUTS[name]
    read(text(100))
    times = [max(seconds(read, text(size * LONGEST_UNIT)), 1e-5) for size in SIZES]
    logs = [(math.log(size), math.log(value)) for size, value in zip(SIZES, times, strict=True)]
    middle = [sum(values) / len(logs) for values in zip(*logs, strict=True)]
    above = sum((x - middle[0]) * (y - middle[1]) for x, y in logs)
    assert above / sum((x - middle[0]) ** 2 for x, _ in logs) < 1.6, times  # 2 is quadratic


def test_nested_boxes_are_stripped_to_the_innermost() -> None:
    assert strip_nested("\\boxed{\\boxed{5}}") == "5"
    assert strip_nested("\\boxed{\\fbox {5} }") == "\\fbox {5}"
    assert strip_nested("\\boxed{1}\\boxed{2}") == "\\boxed{1}\\boxed{2}"
    assert strip_nested("\\boxed{5} ") == "\\boxed{5}"
    assert strip_nested("\\boxed{\\boxed{5}") == "\\boxed{\\boxed{5}"
    assert strip_nested(" 7 ") == "7"
