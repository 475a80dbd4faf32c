r"""A second opinion that shares no code with Math-Verify, nor with the readers of `pipeline.rewards.answers`.

Normalized strings, exact fractions, sympy on a small grammar. It is stricter and knows less: it takes no sentence for
an answer. The audit lists where the two differ; it is no better judge of either, but what the first one is talked into
is written in forms that this one refuses.
"""

import ast
import functools
import re
from fractions import Fraction
from typing import Any

from pipeline.rewards.text import (
    final_boxes,
    last_match,
    last_tagged,
    stated_finally,
    tail,
    unclosed_box,
    without_thoughts,
)
from pipeline.rewards.types import DEFAULT, Conventions, Extra, RewardLabel, Verifier, verdict, wrong_format

_DROPPED = re.compile(r"\\(?:left|right|displaystyle|[,;:! ]|q?quad)(?![A-Za-z])|[\s$]|\\[$()\[\]]")
_MARKED = re.compile(r"\\(?:textbf|text|mathrm|mathbf|mbox|textrm|textit)\s*\{([^{}]*)\}(?:\^\{?([0-9])\}?)?")
_FRACTION = re.compile(r"\\[dtc]?frac\{([^{}]*)\}\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\[dtc]?frac ?([0-9]) ?([0-9])", re.ASCII)
_MIXED = re.compile(r"(?<![0-9A-Za-z)}.])([0-9]+)\\?[dtc]?frac\{([0-9]+)\}\{([0-9]+)\}", re.ASCII)
_ROOT = re.compile(r"\\?sqrt(?:\{([^{}]*)\}|([0-9a-z]))")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
_POWER_OF_TEN = re.compile(
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:\\times|\\cdot|\*|x|\u00d7)10\^?\{?([+-]?[0-9]{1,4})\}?", re.ASCII
)
_LAST_NUMBER = re.compile(r"[+-]?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?(?:\\?%)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", re.ASCII)
_IMPLIED = re.compile(r"(?<=[0-9)a-zP])(?=[a-zSP(])|(?<=\))(?=[0-9])", re.ASCII)
_UNIT_WORDS = re.compile(
    r"(?<=[0-9}) ]) *\\?(dollars?|cents?|degrees?|inches|feet|meters?|units?|cm|mm|km|kg)\.?(?:\^\{?([0-9])\}?)?$"
)
_PERCENT_WORDS = re.compile(r"\\?%|\b(?:percent|percentage)\b")
_DOUBT = re.compile(r"\b(?:not|or|nor)\b", re.IGNORECASE)
_TELLING = re.compile(
    r"[0-9]|\b(?:or|and|not|no|percent|least|most|less|more|fewer|than|under|over|about|hundred|thousand|million|billion"
    r"|trillion|dozen|minus|negative|except|but|squared|cubed|twice|half|times|maybe|either|neither|nor|between)\b",
    re.IGNORECASE,
)
_SIGNED = re.compile(r"^(.*)\\pm(.*)$")
_NAME = re.compile(r"(?:\\?[A-Za-z]+)(?:_\{?[A-Za-z0-9]+\}?)?(?:\([a-z]\))?")
LONGEST = 400
"""Characters of an expression that is compared symbolically."""
MOST_PARTS = 20


def extract(response: str, conventions: Conventions = DEFAULT) -> str:
    """The final box, tags or "final answer", else the last number, with the word of doubt that stands before it."""
    if not conventions.answer_in_thoughts:
        response = without_thoughts(response)
    tagged = last_tagged(response)
    if tagged is not None and tagged[1] > max(response[-100_000:].rfind("\\boxed"), -1):
        inside = final_boxes(tagged[0])
        return ", ".join(inside) if inside else tagged[0]
    if unclosed_box(response) is not None:
        return ""
    parts = final_boxes(response)
    if parts:
        return stated_finally(response) or ", ".join(parts)
    end = tail(response)
    last = last_match(_LAST_NUMBER, end)
    if last is None:
        return ""
    before = end[max(last.start() - 25, 0) : last.start()]
    doubt = _DOUBT.search(before.rpartition(".")[2])
    return before[doubt.start() :] + last.group().rstrip(",") if doubt else last.group().rstrip(",")


def normalize(text: str) -> str:
    """One spelling for what has several: spaces, delimiters, fractions, marked units, degrees, thousands, percent."""
    text = text.strip().strip("$").strip().strip(".")
    prose = re.fullmatch(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}", text)
    if prose:
        return prose.group(1).strip().lower().strip("().")
    text = text.replace("{,}", ",").replace("\u2212", "-").replace("\u00b0", "^\\circ").replace("\\$", "")
    text = re.sub(r"\\(?:,|!|;|:| )", "", text)
    text = re.sub(r"(?<=[0-9]) (?=[0-9]{3}(?![0-9]))", "", text)
    text = _PERCENT_WORDS.sub("%", _MARKED.sub(_kept_prose, text))
    text = _UNIT_WORDS.sub("", text.strip())
    text = re.sub(r"\\(?:mathbf|boldsymbol|bm)(?=\{)", "", _DROPPED.sub("", text).replace("\\%", "%"))
    while text.startswith("{") and text.endswith("}") and text.find("}") == len(text) - 1:
        text = text[1:-1]
    text = re.sub(r"\^\{?\\circ\}?|\\degree", "", text)
    text = _MIXED.sub(r"(\1+(\2)/(\3))", _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text))
    for _ in range(8):  # from the innermost outwards; deeper expressions are compared as strings
        reduced = _ROOT.sub(lambda m: f"sqrt({m[1] or m[2]})", _FRACTION.sub(r"((\1)/(\2))", text))
        if reduced == text:
            break
        text = reduced
    if match := _POWER_OF_TEN.fullmatch(text):
        text = f"{match[1]}e{match[2]}"
    text = re.sub(r"\\(?:cdot|times)", "*", text).replace("\\pi", "pi").replace("\\infty", "oo")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    text = text.strip(".")
    name, equals, value = text.partition("=")
    if equals and "=" not in value and (_NAME.fullmatch(name) or _comes_to(name, value)):
        return value
    return text


def _comes_to(left: str, right: str) -> bool:
    """Whether `24+1=25` is a true equation of numbers."""
    one, other = symbolic(left), symbolic(right)
    return bool(one is not None and other is not None and one.is_Rational and other.is_Rational and one == other)


def _kept_prose(match: re.Match[str]) -> str:
    """Words are dropped as remarks, but not those that change an answer or hold one."""
    inside = match[1].strip()
    if _TELLING.search(inside) or len(inside) == 1:
        return f" {inside} "
    return ""


def units_of(text: str) -> set[str]:
    """The words beside a value, and the power behind them."""
    text = text.replace("\u00b0", "^\\circ")
    found = {f"{word.strip().lower().rstrip('s.')}{power}" for word, power in _MARKED.findall(text)}
    bare = _UNIT_WORDS.search(text.strip().strip("$. "))
    found |= {f"{bare[1].lower().rstrip('s')}{bare[2] or ''}"} if bare else set()
    found |= {"degree"} if "\\circ" in text else set()
    return {word for word in found if re.fullmatch(r"[a-z/ ]{2,}[0-9]?", word) and word not in ("percent", "unit")}


def as_number(text: str) -> Fraction | None:
    """The value of a decimal, a fraction of decimals or a percentage of at most 60 characters, else None."""
    if mixed := re.fullmatch(r"(-?)\(([0-9]+)\+\(([0-9]+)\)/\(([0-9]+)\)\)", text, re.ASCII):
        if int(mixed[4]) == 0:
            return None
        value = int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4]))
        return -value if mixed[1] else value
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
    except (SyntaxError, ValueError, RecursionError, ZeroDivisionError, MemoryError):
        return None


def _build(node: ast.expr) -> Any:
    import sympy

    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
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


def split(text: str) -> list[str]:
    """The parts of a list without brackets, or of a set; one part for everything else."""
    text = text.strip().strip("$").strip().rstrip(".")
    if _THOUSANDS.fullmatch(re.sub(r"\\!|\s|\{|\}|\\,", "", text)) and ", " not in text:
        return [text]
    text = re.sub(r"\\(?:text|mbox)\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b|\\lor\b", ",", text)
    if text.startswith("\\{") and text.endswith("\\}"):
        text = text[2:-2]
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth <= 0 and character in ",;":
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    found = [signed for part in parts if part.strip(" $") for signed in _both_signs(part)]
    return found[: MOST_PARTS + 1]


def _both_signs(part: str) -> list[str]:
    match = _SIGNED.match(part)
    return [f"{match[1]}+{match[2]}".strip().removeprefix("+"), f"{match[1]}-{match[2]}"] if match else [part]


def equivalent(given: str, gold: str, conventions: Conventions = DEFAULT) -> tuple[bool, str]:
    """Whether two answers agree, and by which comparison that was decided."""
    units = units_of(given), units_of(gold)
    if all(units) and units[0] != units[1]:
        return False, f"units {', '.join(sorted(units[0]))} and {', '.join(sorted(units[1]))}"
    if _strings(given) == _strings(gold):
        return True, "equal as normalized strings"
    lefts, rights = split(given), split(gold)
    if len(lefts) != len(rights):
        return False, f"{len(lefts)} parts and {len(rights)}"
    if len(lefts) == 1:
        return _equivalent(given, gold, conventions)
    if len(lefts) > MOST_PARTS:
        return False, f"more than {MOST_PARTS} parts"
    left = list(lefts)
    for right in rights:
        place = next((i for i, one in enumerate(left) if _equivalent(one, right, conventions)[0]), None)
        if place is None:
            return False, f"no part agrees with {right!r:.60}"
        del left[place]
    return True, "part by part, in any order"


def _strings(text: str) -> str:
    return normalize(re.sub(r"\\(?:dfrac|tfrac)", r"\\frac", text))


def _equivalent(given: str, gold: str, conventions: Conventions) -> tuple[bool, str]:
    units = units_of(given), units_of(gold)
    if all(units) and units[0] != units[1]:
        return False, f"units {', '.join(sorted(units[0]))} and {', '.join(sorted(units[1]))}"
    left, right = normalize(given), normalize(gold)
    if left == right:
        return True, "equal as normalized strings"
    numbers = as_number(left), as_number(right)
    if numbers[0] is None and numbers[1] is not None and (expression := symbolic(left)) is not None:
        return _same_expression(expression, symbolic(right))
    if numbers[0] is not None and numbers[1] is not None:
        return _same_number(left, right, conventions), f"as numbers: {numbers[0]!s:.40}, {numbers[1]!s:.40}"
    expressions = symbolic(left), symbolic(right)
    if expressions[0] is not None and expressions[1] is not None:
        return _same_expression(*expressions)
    return False, f"different strings: {left!r:.80} and {right!r:.80}"


def _same_number(left: str, right: str, conventions: Conventions) -> bool:
    given, gold = as_number(left), as_number(right)
    if given is None or gold is None:
        return False
    if right.endswith("%") and not left.endswith("%"):
        return given in (gold, gold * 100)
    if left.endswith("%") and conventions.percent_is_the_number == "always" and given * 100 == gold:
        return True
    if given == gold:
        return True
    whole = given.denominator == gold.denominator == 1 and "e" not in (left + right).lower()
    rounded = re.search(r"[.eE]", left + right)
    return (
        bool(rounded) and not whole and abs(given - gold) <= Fraction(str(conventions.relative_tolerance)) * abs(gold)
    )


def _same_expression(left: Any, right: Any) -> tuple[bool, str]:
    import sympy

    try:
        return bool(sympy.simplify(left - right) == 0), "as sympy expressions"
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError):
        return False, "not comparable as sympy expressions"


def shortcut(reduced: str, answer: str, require_boxed: bool, conventions: Conventions = DEFAULT) -> RewardLabel | None:
    """Nothing to compare, or two short numbers."""
    del require_boxed
    if not reduced:
        return wrong_format("no box and no number")
    if len(reduced) > 60 or len(answer) > 60 or re.search(r"[A-Za-z,;{%\\]", reduced + answer):
        return None
    left, right = normalize(reduced), normalize(answer)
    given, gold = as_number(left), as_number(right)
    return (
        None
        if given is None or gold is None
        else verdict(_same_number(left, right, conventions), reduced, detail=f"as numbers: {given}, {gold}")
    )


def grade(response: str, answer: str, extra: Extra, conventions: Conventions = DEFAULT) -> RewardLabel:
    """Compare the extracted answer with the gold by the three comparisons, the cheapest first."""
    boxed = final_boxes(answer)
    correct, why = equivalent(response, ", ".join(boxed) if boxed else answer, conventions)
    return verdict(correct, response, detail=why)


def verifier(conventions: Conventions) -> Verifier:
    """The verifier under these conventions."""
    bound = functools.partial
    return Verifier(
        "plain",
        f"2{conventions.suffix()}",
        bound(grade, conventions=conventions),
        bound(extract, conventions=conventions),
        bound(shortcut, conventions=conventions),
    )


VERIFIER = verifier(DEFAULT)
