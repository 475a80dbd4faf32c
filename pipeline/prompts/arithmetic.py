"""Additions of two numbers: a prompt set that needs no download, and a behaviour policy that is right half the time."""

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


def behaviour_answer(a: int, b: int, accuracy: float, rng: random.Random) -> str:
    """What the scripted behaviour policy says: the sum with probability `accuracy`, else it gets the carry wrong.

    It then forgets the ten carried over from the units, or carries one where none is due.
    """
    if rng.random() < accuracy:
        return str(a + b)
    return str(a + b - 10 if a % 10 + b % 10 >= 10 else a + b + 10)
