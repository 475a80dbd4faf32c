r"""A second opinion on Math-Verify that shares no code with it: normalized strings, numbers, sympy on a small grammar.

It is stricter and knows less. The audit lists where the two differ; it is no better judge of either.
"""

import ast
import re
from fractions import Fraction
from typing import Any

from pipeline.rewards.text import final_boxes, tail
from pipeline.rewards.types import Extra, RewardLabel, Verifier, verdict, wrong_format

_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|[,;:! ]|q?quad)|[\s$]|\\(?:text|mathrm|mbox)\{[^{}]*\}(?:\^\{?[0-9]\}?)?"
)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac([0-9])([0-9])", re.ASCII)
_ROOT = re.compile(r"\\sqrt\{([^{}]*)\}")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?|[+-]?\.[0-9]+", re.ASCII)
_LAST_NUMBER = re.compile(r"[+-]?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?%?", re.ASCII)
_IMPLIED = re.compile(r"(?<=[0-9)a-zP])(?=[a-zSP(])|(?<=\))(?=[0-9])", re.ASCII)
LONGEST = 400
"""Characters of an expression that is compared symbolically."""


def extract(response: str) -> str:
    """The final box, else the last number."""
    parts = final_boxes(response)
    if parts:
        return ", ".join(parts)
    numbers = _LAST_NUMBER.findall(tail(response))
    return numbers[-1].rstrip(",") if numbers else ""


def normalize(text: str) -> str:
    """One spelling for what has several: spaces, delimiters, fractions, units in \\text, degrees, thousands."""
    text = text.strip().strip(".")
    prose = re.fullmatch(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}", text)
    if prose:
        return prose.group(1).strip().lower()
    text = _DROPPED.sub("", text.replace("{,}", ",").replace("\\%", "%").replace("\u2212", "-"))
    text = re.sub(r"\^\{?\\circ\}?|\\degree", "", text)
    text = _SHORT_FRACTION.sub(r"(\1)/(\2)", text)
    for _ in range(8):  # from the innermost outwards; deeper expressions are compared as strings
        reduced = _ROOT.sub(r"sqrt(\1)", _FRACTION.sub(r"((\1)/(\2))", text))
        if reduced == text:
            break
        text = reduced
    text = re.sub(r"\\(?:cdot|times)", "*", text).replace("\\pi", "pi")
    if re.fullmatch(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", text, re.ASCII):
        text = text.replace(",", "")
    name, equals, value = text.partition("=")
    return value if equals and len(name) == 1 and name.isalpha() else text


def as_number(text: str) -> Fraction | None:
    """The value of a decimal, a fraction of decimals or a percentage of at most 60 characters, else None."""
    text = text.replace("(", "").replace(")", "")
    percent = text.endswith("%")
    numerator, slash, denominator = text.removesuffix("%").partition("/")
    if len(text) > 60 or not _NUMBER.fullmatch(numerator) or (slash and not _NUMBER.fullmatch(denominator)):
        return None
    below = Fraction(denominator) if slash else Fraction(1)
    return Fraction(numerator) / below / (100 if percent else 1) if below else None


def symbolic(text: str) -> Any:
    """A sympy expression built node by node from + - * / ^, sqrt, pi, numbers and one-letter names, else None.

    Never through sympify, which evaluates text as Python.
    """
    if len(text) > LONGEST:
        return None
    source = text.replace("{", "(").replace("}", ")").replace("^", "**").replace("sqrt(", "S(").replace("pi", "P")
    try:
        return _build(ast.parse(_IMPLIED.sub("*", source), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, ZeroDivisionError):
        return None


def _build(node: ast.expr) -> Any:
    import sympy

    match node:
        case ast.Constant(value=int() | float() as value):
            return sympy.Rational(str(value))
        case ast.Name(id="P"):
            return sympy.pi
        case ast.Name(id=name) if len(name) == 1:
            return sympy.Symbol(name)
        case ast.Call(func=ast.Name(id="S"), args=[inner]):
            return sympy.sqrt(_build(inner))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_build(inner)
        case ast.BinOp(left=left, op=op, right=right):
            return _combine(op, _build(left), _build(right))
        case _:
            raise ValueError("outside of the grammar")


def _combine(op: ast.operator, left: Any, right: Any) -> Any:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow() if not right.is_number or abs(right) <= 64:
            return left**right
        case _:
            raise ValueError("outside of the grammar")


def equivalent(given: str, gold: str) -> tuple[bool, str]:
    """Whether two answers agree, and by which comparison that was decided."""
    left, right = normalize(given), normalize(gold)
    if left == right:
        return True, "equal as normalized strings"
    numbers = as_number(left), as_number(right)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1], f"as numbers: {numbers[0]}, {numbers[1]}"
    expressions = symbolic(left), symbolic(right)
    if expressions[0] is not None and expressions[1] is not None:
        import sympy

        return bool(sympy.simplify(expressions[0] - expressions[1]) == 0), "as sympy expressions"
    return False, f"different strings: {left!r:.80} and {right!r:.80}"


def shortcut(reduced: str, answer: str, require_boxed: bool) -> RewardLabel | None:
    """Nothing to compare, or two short numbers."""
    del require_boxed
    if not reduced:
        return wrong_format("no box and no number")
    if len(reduced) > 60 or len(answer) > 60:
        return None
    given, gold = as_number(normalize(reduced)), as_number(normalize(answer))
    return (
        None
        if given is None or gold is None
        else verdict(given == gold, reduced, detail=f"as numbers: {given}, {gold}")
    )


def grade(response: str, answer: str, extra: Extra) -> RewardLabel:
    """Compare the extracted answer with the gold by the three comparisons, the cheapest first."""
    correct, why = equivalent(response, answer)
    return verdict(correct, response, detail=why)


VERIFIER = Verifier("plain", "1", grade, extract, shortcut)
