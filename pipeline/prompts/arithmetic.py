"""Additions of two numbers: a prompt set that needs no download, and a typical mistake."""

import random

from pipeline.config.prompts import ArithmeticConfig
from pipeline.prompts.problem import Problem
from pipeline.store import seed_of


def arithmetic_problems(config: ArithmeticConfig, seed: int) -> tuple[list[Problem], list[Problem]]:
    """(training, held-out) problems; every pair of summands is in exactly one of the two."""
    numbers = range(config.low, config.high + 1)
    problems = [Problem(f"add-{a}-{b}", f"{a}+{b}=", str(a + b), "arithmetic") for a in numbers for b in numbers]
    random.Random(seed_of(seed, "arithmetic split")).shuffle(problems)
    return problems[config.heldout :], problems[: config.heldout]


def wrong_sum(question: str) -> str:
    """The sum with the carry wrong: without the ten carried over from the units, or with one where none is due."""
    a, b = (int(number) for number in question.removesuffix("=").split("+"))
    return str(a + b - 10 if a % 10 + b % 10 >= 10 else a + b + 10)
