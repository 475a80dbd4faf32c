"""Scorers of ours for the tasks of reasoning-gym whose own scorer would run an answer or a row as code.

Each gives the package's score to every answer that the grammar reads, and the score of a wrong answer to all others.
Where the package takes for right what is no answer, it scores otherwise: `nan` in `complex_arithmetic`, a list of `NaN`
in `number_sorting`, and `Integral(…)`, the question itself, in the integrations.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.rewards.expressions import OutsideOfGrammar, integer, literal, symbolic

Entry = Mapping[str, Any]
"""The generated question as stored: `answer` and `metadata`."""
_INTEGERS = re.compile(r"\b\d+\b")
_NO_NUMBER = re.compile(r"nan|inf", re.IGNORECASE)
_PUZZLE24_VALUES = range(1, 11)
"""Numbers of a puzzle24 in the task's default configuration, by which the package scores."""


def spiral_matrix(answer: str, entry: Entry) -> float:
    gold = str(entry["answer"]).strip()
    return _exact_or_list(answer.strip(), gold, lambda items: " ".join(str(item) for item in items))


def string_insertion(answer: str, entry: Entry) -> float:
    return _exact_or_list(answer, str(entry["answer"]), "".join)


def binary_matrix(answer: str, entry: Entry) -> float:
    return _exact_or_list(answer, str(entry["answer"]), _matrix_text)


def n_queens(answer: str, entry: Entry) -> float:
    boards: list[str] = entry["metadata"]["valid_answers"]
    if answer in boards:
        return 1.0
    return 0.5 if _as_list(answer, _board_text) in boards else 0.0


def _exact_or_list(answer: str, gold: str, spell: Callable[[Any], str]) -> float:
    """The text asked for is worth 1, the same as a Python list a tenth."""
    if answer == gold:
        return 1.0
    return 0.1 if _as_list(answer, spell) == gold else 0.0


def _as_list(answer: str, spell: Callable[[Any], str]) -> str | None:
    """An answer that is a Python literal, spelled as text; None when it is none, or of another shape."""
    try:
        return spell(literal(answer))
    except (OutsideOfGrammar, TypeError, ValueError):
        return None


def _matrix_text(rows: Any) -> str:
    return "\n".join(" ".join(str(cell) for cell in row) for row in rows)


def _board_text(rows: Any) -> str:
    return "\n".join(" ".join(row) for row in rows)


def number_sorting(answer: str, entry: Entry) -> float:
    try:
        given = json.loads(answer.replace("'", '"'))
        if not isinstance(given, list):
            return 0.0
        gold = literal(str(entry["answer"]))
        numbers, wanted = [float(item) for item in given], [float(item) for item in gold]
    except (ValueError, TypeError, RecursionError):
        return 0.0
    if len(numbers) != len(wanted) or not all(map(math.isfinite, numbers)):
        return 0.0
    if numbers != sorted(numbers, reverse=entry["metadata"]["direction"] != "ascending"):
        return 0.0
    return float(all(abs(number - right) <= 1 for number, right in zip(numbers, wanted, strict=True)))


def bitwise_arithmetic(answer: str, entry: Entry) -> float:
    try:
        return float(int(answer, 0) == integer(str(entry["metadata"]["problem"])))
    except ValueError:
        return 0.0


def countdown(answer: str, entry: Entry) -> float:
    value = _value(answer)
    if value is None:
        return 0.01
    used, target = [int(digits) for digits in _INTEGERS.findall(answer)], float(entry["metadata"]["target"])
    if sorted(used) != sorted(entry["metadata"]["numbers"]):
        return 0.05
    return 1.0 if abs(value - target) <= 1e-6 + 1e-5 * abs(target) else 0.05


def puzzle24(answer: str, entry: Entry) -> float:
    del entry  # the package does not compare the numbers used with those given
    value = _value(answer)
    used = [int(digits) for digits in _INTEGERS.findall(answer)]
    solved = value is not None and math.isfinite(value) and int(value) == 24
    return 1.0 if solved and len(used) == 4 and all(number in _PUZZLE24_VALUES for number in used) else 0.01


def _value(answer: str) -> float | None:
    """The value of an expression of numbers."""
    try:
        return float(symbolic(answer))
    except (ArithmeticError, TypeError, ValueError):
        return None


def polynomial_multiplication(answer: str, entry: Entry) -> float:
    try:
        return float(bool(symbolic(answer) == symbolic(str(entry["answer"]))))
    except (ArithmeticError, TypeError, ValueError):
        return 0.0


def integration(answer: str, entry: Entry) -> float:
    """Right when the answer's derivative is the integrand. The text is built by the grammar before sympy sees it."""
    import sympy

    name = str(entry["metadata"]["variable"])
    variable = sympy.Symbol(name)
    try:
        given = symbolic(answer, {name: variable, "C": sympy.Symbol("C")})
        integrand = symbolic(str(entry["metadata"]["integrand"]), {name: variable})
        return float(bool(sympy.simplify(sympy.diff(given, variable) - integrand) == 0))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return 0.0  # sympy cannot differentiate or simplify it: as in the package, not right


def complex_arithmetic(answer: str, entry: Entry) -> float:
    """The package's own, which reads the answer with `complex`, for answers that hold a number."""
    import reasoning_gym

    if _NO_NUMBER.search(answer):
        return 0.0
    scorer: Any = reasoning_gym.get_score_answer_fn("complex_arithmetic")
    return float(scorer(answer, dict(entry)))


SCORERS: Mapping[str, Callable[[str, Entry], float]] = {
    "binary_matrix": binary_matrix,
    "bitwise_arithmetic": bitwise_arithmetic,
    "complex_arithmetic": complex_arithmetic,
    "countdown": countdown,
    "intermediate_integration": integration,
    "n_queens": n_queens,
    "number_sorting": number_sorting,
    "polynomial_multiplication": polynomial_multiplication,
    "puzzle24": puzzle24,
    "simple_integration": integration,
    "spiral_matrix": spiral_matrix,
    "string_insertion": string_insertion,
}
