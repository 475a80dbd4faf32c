r"""Expressions from LaTeX by Math-Verify's grammar, and from Python-like text by ours; compared by their values.

Math-Verify's own comparison rounds to six decimals and takes 1e-15 for 0. Here expressions are evaluated to many
digits, at points where they hold names, and compared by a relative tolerance.
"""

import functools
import re
from typing import Any

from pipeline.rewards.expressions import OutsideOfGrammar, symbolic

DIGITS = 40
"""Digits to which expressions are evaluated."""
EXACT = 1e-25
"""Relative difference of equal expressions that hold no decimals."""
_WHOLE_POINTS = 16
_POINTS = ((7, 5), (11, 9), (17, 13), (23, 19), (31, 29), (5, 3))
_PYTHON = re.compile(
    r"\*\*|\b(?:np|math|sympy|sp)\.|\b(?:sqrt|cbrt|arcsin|arccos|arctan|asin|acos|atan|Eq|Rational|exp|log)\("
)
_SYMPY_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "Rational": ""}
_RENAMED = re.compile(r"(?<![A-Za-z_])(?:np|math|sympy|sp)\.|(?<![A-Za-z_])(arcsin|arccos|arctan|Rational)(?=\()")
_BARE_FUNCTIONS = re.compile(
    r"(?<![A-Za-z\\])(pi|sin|cos|tan|cot|sec|csc|ln|log|exp|arcsin|arccos|arctan|sinh|cosh|tanh)(?![A-Za-z])"
)
_RESPELLED = {"E_": "\\Xi_", "\\odot": "sun", "\\hbar": "h_{bar}", "\\ell": "l"}
_NAMES = re.compile(r"(?<![A-Za-z])E_|\\odot(?![A-Za-z])|\\hbar(?![A-Za-z])|\\ell(?![A-Za-z])")
"""Names that Math-Verify's grammar lacks, and E with an index, which it takes for the base of logarithms."""
SYMPY_ERRORS = (ArithmeticError, AttributeError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""What sympy raises on expressions it cannot compare (NotImplementedError and RecursionError are RuntimeErrors)."""


@functools.lru_cache(maxsize=2048)
def expression(text: str) -> Any:
    """The text as a sympy object, all of it; None where it is not understood. Repeated gold answers are read once."""
    if "\\" not in text and _PYTHON.search(text):
        return _python(text)
    return _latex(text)


def _python(text: str) -> Any:
    renamed = _RENAMED.sub(lambda match: _SYMPY_NAMES.get(match[1] or "", ""), text).replace("^", "**")
    equation = re.fullmatch(r"\s*Eq\((.*),([^,()]*|[^,]*)\)\s*", renamed)
    try:
        if equation:
            import sympy

            return sympy.Eq(symbolic(equation[1]), symbolic(equation[2]), evaluate=False)
        return symbolic(renamed)
    except OutsideOfGrammar:
        return None
    except SYMPY_ERRORS:
        return None


@functools.cache
def _normalization() -> Any:
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig

    return NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )


@functools.cache
def _conversion() -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    return ConversionConfig(lowercase_symbols=False)  # N = n is no identity


def _latex(text: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex

    try:
        spelled = _BARE_FUNCTIONS.sub(r"\\\1", text)
        spelled = _NAMES.sub(lambda match: _RESPELLED[match.group()], spelled).replace("'", "^{\\prime}")
        normal = normalize_latex(spelled, config=_normalization())
        if not normal.strip():
            return None
        real = not should_treat_as_complex(normal)
        return latex2sympy(
            normal, is_real=real, convert_degrees=False, normalization_config=None, conversion_config=_conversion()
        )
    except RecursionError:
        return None
    except Exception:  # noqa: BLE001 (the grammar raises bare Exceptions for what it does not know)
        return None


def same_value(gold: Any, given: Any, tolerance: float) -> bool | None:
    """Whether two expressions agree at every point tried; None where they cannot be evaluated."""
    import sympy

    if not (isinstance(gold, sympy.Expr) and isinstance(given, sympy.Expr)):
        return None
    try:
        if gold == given:
            return True
        rounded = bool(gold.atoms(sympy.Float) or given.atoms(sympy.Float))
        limit = tolerance if rounded else EXACT
        names = _names(gold, given)
        if not names:
            return _close(gold, given, {}, {}, limit)
        if names == ["i"] and not (gold.free_symbols and given.free_symbols):
            # One side is a number, which nothing that depends on an index equals: i is the imaginary unit.
            unit = {"i": sympy.I}
            return _close(gold, given, _point(gold, unit), _point(given, unit), limit)
        steps = [bool(one.has(sympy.floor, sympy.ceiling)) for one in (gold, given)]
        if any(steps):
            found = [_at_whole_numbers(gold, given, names, limit, start) for start in range(2, 2 + _WHOLE_POINTS)]
            if False in found or all(steps):  # with steps on both sides the names stand for whole numbers
                return False if False in found else (True if found.count(True) > _WHOLE_POINTS // 2 else None)
        decided = 0
        for shift in range(len(_POINTS) - 1):
            values = {
                name: sympy.Rational(*_POINTS[(index * 2 + shift) % len(_POINTS)]) + index + 7 * shift
                for index, name in enumerate(names)
            }
            same = _close(gold, given, _point(gold, values), _point(given, values), limit)
            if same is False:
                return False
            decided += same is True
            if decided == 3:
                return True
        return None
    except SYMPY_ERRORS:
        return None


def _at_whole_numbers(gold: Any, given: Any, names: list[str], limit: float, start: int) -> bool | None:
    """Steps of floors and ceilings lie at whole numbers, and `_POINTS` miss them."""
    import sympy

    values = {name: sympy.Integer(start + 3 * index) for index, name in enumerate(names)}
    return _close(gold, given, _point(gold, values), _point(given, values), limit)


def _names(*found: Any) -> list[str]:
    """Names of the free symbols. Two readings of one name may be different symbols, real or complex."""
    return sorted({symbol.name for one in found for symbol in one.free_symbols})


def _point(found: Any, values: dict[str, Any]) -> dict[Any, Any]:
    return {symbol: values[symbol.name] for symbol in found.free_symbols}


def _close(gold: Any, given: Any, at_gold: dict[Any, Any], at_given: dict[Any, Any], limit: float) -> bool | None:
    left, right = _value(gold, at_gold), _value(given, at_given)
    if left is None or right is None:
        return None
    if limit == EXACT and getattr(left, "is_Rational", False) and getattr(right, "is_Rational", False):
        return bool(left == right)
    difference = abs(left - right)
    if left == 0 or right == 0:
        return bool(difference == 0 or max(abs(left), abs(right)) < 10**-30)
    return bool(difference <= limit * abs(left))


def _value(found: Any, point: dict[Any, Any]) -> Any:
    """A number of `DIGITS` digits, or None."""
    import sympy

    whole = found.subs(point) if point else found
    if hasattr(whole, "doit"):
        whole = whole.doit()
    if whole.is_Rational:
        return whole
    number = whole.evalf(DIGITS, maxn=400)
    if not number.is_number or number.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return None
    real, imaginary = number.as_real_imag()
    if not (real.is_Float or real.is_Rational) or not (imaginary.is_Float or imaginary.is_Rational):
        return None
    return number


def same_equation(gold: Any, given: Any, tolerance: float) -> bool | None:
    """Whether two equations say the same: their sides' differences are proportional. None where nobody can tell."""
    import sympy

    try:
        left, right = gold.lhs - gold.rhs, given.lhs - given.rhs
    except TypeError:  # a side is a tuple or a set
        return None
    names = _names(left, right)
    if _names(left) != _names(right) or not names:
        return False
    rounded = bool(left.atoms(sympy.Float) or right.atoms(sympy.Float))
    limit = tolerance if rounded else EXACT
    ratios: list[Any] = []
    try:
        for shift in range(4):
            values = {
                name: sympy.Rational(*_POINTS[(index * 2 + shift) % len(_POINTS)]) + index + 7 * shift
                for index, name in enumerate(names)
            }
            above, below = _value(left, _point(left, values)), _value(right, _point(right, values))
            if above is None or below is None:
                return None
            if below == 0 or above == 0:
                if (above == 0) != (below == 0):
                    return False
                continue
            ratios.append(above / below)
        return len(ratios) > 1 and all(abs(ratio - ratios[0]) <= limit * abs(ratios[0]) for ratio in ratios)
    except SYMPY_ERRORS:
        return None
