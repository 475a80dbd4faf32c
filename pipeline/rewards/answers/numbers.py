"""Numbers as people and models write them, read exactly: nothing is rounded before it is compared."""

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 400
"""Characters of a number. A longer text is no number here, so that reading takes bounded time."""
LARGEST_EXPONENT = 5_000
_GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+"
_DECIMAL = rf"(?P<whole>{_GROUPED})?(?P<point>\.[0-9]*)?"
_EXPONENT = r"(?:\{ ?\(?(?P<braced>[+-]? ?[0-9]{1,5})\)? ?\}|(?P<bare>\(?[+-]?[0-9]{1,5}\)?))"
_TEN = rf"10 ?(?:\^|\*\*) ?{_EXPONENT}"
_PLAIN = re.compile(_DECIMAL, re.ASCII)
_SCIENTIFIC = re.compile(rf"{_DECIMAL}(?: ?[eE](?P<e>[+-]?[0-9]{{1,5}})| ?(?:\\times|\\cdot|\*|x) ?{_TEN})", re.ASCII)
_POWER = re.compile(_TEN, re.ASCII)
_FRACTION = re.compile(
    r"(?P<mixed>[0-9]{1,40})? ?\\[dtc]?frac ?"
    r"(?:\{ ?(?P<above>[^{}]*)\}|(?P<digit_above>[0-9])) ?(?:\{(?P<below>[^{}]*)\}|(?P<digit_below>[0-9]))",
    re.ASCII,
)
_SLASH = re.compile(r"(?:(?P<mixed>[0-9]{1,40}) )?(?P<above>[^/]*)/(?P<below>[^/]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value. `rounded` says that it is written with a decimal point or a power of ten."""

    value: Fraction
    rounded: bool = False
    powers: bool = False
    """Whether a power of ten is written: such a number states few of its digits."""

    @property
    def whole(self) -> bool:
        return self.value.denominator == 1


def read_number(text: str) -> Number | None:
    r"""`-1,234.5`, `.5`, `25.`, `4.5e33`, `4.5 \times 10^{33}`, `3/4`, `\frac{3}{4}`, `1\frac{3}{4}`; else None."""
    text = text.strip()
    if not text or len(text) > LONGEST:
        return None
    sign = 1
    while text[:1] in ("+", "-", "(", "{"):
        if text[0] in "({":
            if not _encloses(text):
                break
            text = text[1:-1].strip()
            continue
        sign = -sign if text[0] == "-" else sign
        text = text[1:].lstrip()
        if text[:1] in ("+", "-"):
            return None  # `--5` is a misprint, not a number
    found = _unsigned(text)
    return Number(sign * found.value, found.rounded, found.powers) if found else None


def _encloses(text: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    close = {"(": ")", "{": "}"}[text[0]]
    if not text.endswith(close):
        return False
    depth = 0
    for position, character in enumerate(text):
        depth += (character == text[0]) - (character == close)
        if depth == 0:
            return position == len(text) - 1
    return False


def _unsigned(text: str) -> Number | None:
    if text[:1] in ("+", "-"):
        return None
    if match := _PLAIN.fullmatch(text):
        return _decimal(match)
    if match := _SCIENTIFIC.fullmatch(text):
        decimal = _decimal(match)
        return _shifted(decimal, match["e"] or match["braced"] or match["bare"]) if decimal else None
    if match := _POWER.fullmatch(text):
        return _shifted(Number(Fraction(1)), match["braced"] or match["bare"])
    return _fraction(text)


def _decimal(match: re.Match[str]) -> Number | None:
    whole = (match["whole"] or "").replace(",", "").replace(" ", "")
    behind = (match["point"] or "")[1:]
    if not whole and not behind:
        return None
    return Number(Fraction(int(whole + behind), 10 ** len(behind)), bool(match["point"]))


def _shifted(number: Number, exponent: str) -> Number | None:
    power = int(exponent.strip("()").replace(" ", ""))
    if abs(power) > LARGEST_EXPONENT:
        return None
    return Number(number.value * Fraction(10) ** power, True, True)


def _fraction(text: str) -> Number | None:
    if match := _FRACTION.fullmatch(text):
        above, below = match["above"] or match["digit_above"], match["below"] or match["digit_below"]
    elif match := _SLASH.fullmatch(text):
        above, below = match["above"], match["below"]
    else:
        return None
    if "frac" in (above or "") or "/" in (above or "") or "/" in (below or ""):
        return None
    top, bottom = read_number(above or ""), read_number(below or "")
    if top is None or bottom is None or bottom.value == 0:
        return None
    part = Number(top.value / bottom.value, top.rounded or bottom.rounded, top.powers or bottom.powers)
    if match["mixed"] is None:
        return part
    if part.rounded or not 0 < part.value < 1:
        return None  # `3 \frac{7}{2}` is a product, which Math-Verify reads
    return Number(int(match["mixed"]) + part.value)


def agree(gold: Number, given: Number, tolerance: float) -> bool:
    """Whether two numbers are the same: exactly, or to the relative tolerance where one of them is rounded.

    Two whole numbers without a power of ten are compared exactly, however they are written: `12345678.0` states every
    digit.
    """
    if gold.value == given.value:
        return True
    if not (gold.rounded or given.rounded) or (gold.whole and given.whole and not (gold.powers or given.powers)):
        return False
    return abs(gold.value - given.value) <= Fraction(str(tolerance)) * abs(gold.value)
