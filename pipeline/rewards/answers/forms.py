r"""The forms in which a value stands: bracketed, as an interval, in a base, behind a name, with a sign of both kinds.

Forms are read from the text, in linear time; nothing is evaluated.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.rewards.answers.reading import LABEL, Part, chain, closing, plain, split_top

_BASED = re.compile(r"(-?) ?\(?([0-9A-Za-z]{1,200})\)? ?_ ?(?:\{ ?([0-9]{1,3}) ?\}|([0-9]{1,2}))", re.ASCII)
INDEXED_NUMBER = re.compile(r"-? ?\(?[0-9][0-9A-Za-z]*\)? ?_[^=]*\Z")
_SIGNS = re.compile(r"\\pm(?![A-Za-z])|\\mp(?![A-Za-z])|\+/-")


@dataclass(frozen=True, slots=True)
class Brackets:
    """What stands between a pair of brackets, at its commas."""

    opened: str
    closed: str
    pieces: tuple[str, ...]


def bracketed(text: str) -> Brackets | None:
    """`(1, 2)` and `[0, \\infty)` in their pieces; None for what is not enclosed in brackets with a comma."""
    if len(text) < 3 or text[0] not in "([" or text[-1] not in ")]" or closing(text, 0) != len(text) - 1:
        return None
    pieces = split_top(text[1:-1], ",;")
    return Brackets(text[0], text[-1], tuple(p.strip() for p in pieces)) if len(pieces) > 1 else None


def union_pieces(text: str) -> list[str]:
    """The sets that a union is of; the text itself where it is none."""
    return [piece.strip() for piece in re.split(r"\\cup(?![A-Za-z])|\\bigcup(?![A-Za-z])", text)]


def interval(text: str) -> tuple[str, str] | None:
    r"""(name, interval) of `-2 \\le x < 7` or `x \\ge 3`; None where something else is related to something else."""
    sides, relations = chain(text)
    if not relations or not set(relations) <= {"<", ">", "\\le", "\\ge"}:
        return None
    ups = [relation in ("<", "\\le") for relation in relations]
    if len(sides) == 3 and (all(ups) or not any(ups)) and not _is_value(sides[1]) and "|" not in sides[1]:
        low, high = (sides[0], sides[2]) if ups[0] else (sides[2], sides[0])
        first, last = (relations[0], relations[1]) if ups[0] else (relations[1], relations[0])
        opened = "[" if first in ("\\le", "\\ge") else "("
        closed = "]" if last in ("\\le", "\\ge") else ")"
        return sides[1], f"{opened}{low},{high}{closed}"
    if len(sides) == 2:
        name, value, up = (sides[0], sides[1], ups[0]) if not _is_value(sides[0]) else (sides[1], sides[0], not ups[0])
        closed = relations[0] in ("\\le", "\\ge")
        if not LABEL.fullmatch(name) or not value or "|" in name:
            return None
        return name, f"(-\\infty,{value}{']' if closed else ')'}" if up else f"{'[' if closed else '('}{value},\\infty)"
    return None


def _is_value(text: str) -> bool:
    return not re.search(r"[A-Za-z]", re.sub(r"\\(?:frac|sqrt|pi|infty|cdot|times|left|right)(?![A-Za-z])", "", text))


def based(text: str) -> tuple[str, int] | None:
    """The digits and the base of `52_8`, or None."""
    match = _BASED.fullmatch(text)
    if not match or not match[2][0].isdigit():
        return None
    return match[1] + (match[2].lstrip("0").upper() or "0"), int(match[3] or match[4])


def fits_base(digits: str, base: int) -> bool:
    """Whether each digit is one of the base."""
    return 2 <= base <= 36 and all(int(digit, 36) < base for digit in digits.removeprefix("-"))


def name_and_value(text: str) -> tuple[str, str] | None:
    """(name, value) of `x = 5`, of `x \\in S` and of `5 = x`; None without a name."""
    sides, relations = chain(text)
    if len(sides) == 2 and relations[0] in ("=", "\\in", "\\approx"):
        if LABEL.fullmatch(sides[0]) or _names_of_tuple(sides[0]):
            return sides[0], sides[1]
        if relations[0] == "=" and LABEL.fullmatch(sides[1]) and _is_value(sides[0]):
            return sides[1], sides[0]
    return None


def _names_of_tuple(text: str) -> bool:
    brackets = bracketed(text)
    return bool(brackets) and all(LABEL.fullmatch(piece) for piece in brackets.pieces)


def plain_name(name: str) -> str:
    """A name without layout and arguments: `f_{1}(x)` is `f1`."""
    name = re.sub(r"(?<=[^\s])\([^()]*\)$", "", name)
    return re.sub(r"[\\{} _]", "", name)


def names_only(text: str) -> bool:
    r"""Whether a side holds no number outside of indices: `\\frac{NO}{BO}` is named, `2x + z` is not."""
    return bool(re.search(r"[A-Za-z]", text)) and not re.search(r"[0-9]", re.sub(r"_ ?(?:\{[^{}]*\}|[0-9])", "", text))


def value_of(text: str) -> str:
    """The text without the name before it."""
    named = name_and_value(text)
    return named[1] if named else text


def is_set(text: str) -> bool:
    """Whether a tuple, an interval, a union or a set stands there."""
    text = value_of(text)
    return bool(bracketed(text)) or "\\cup" in text or "\\mathbb" in text or text.startswith("\\{")


def spread(groups: Sequence[Sequence[Part]]) -> list[list[Part]]:
    r"""Parts with `3 \\pm 1` as two parts, and names before lists taken off: `x = 1, 2` is two values of x."""
    return [[signed for part in group for signed in _signed(part)] for group in groups]


def _signed(part: Part) -> list[Part]:
    if not _SIGNS.search(part.math) or len(_SIGNS.findall(part.math)) > 2:
        return [part]
    plus = re.sub(r"\\mp(?![A-Za-z])", "-", re.sub(r"\\pm(?![A-Za-z])|\+/-", "+", part.math))
    minus = re.sub(r"\\mp(?![A-Za-z])", "+", re.sub(r"\\pm(?![A-Za-z])|\+/-", "-", part.math))
    return [Part(plus.lstrip("+ "), part.remark, part.percent), Part(minus.lstrip("+ "), part.remark, part.percent)]


def flat(groups: Sequence[Sequence[Part]]) -> list[Part]:
    """All parts. A name before the first of several values that have none names them all, and is taken off."""
    parts = [part for group in groups for part in group]
    if len(parts) > 1:
        named = [name_and_value(part.math) for part in parts]
        if named[0] and (not any(named[1:]) or len({plain_name(n[0]) for n in named if n}) == 1):
            return [Part(n[1], p.remark, p.percent) if n else p for n, p in zip(named, parts, strict=True)]
    return parts


def as_union(parts: Sequence[Part]) -> list[Part]:
    """`x < 1 or x > 3` as one union of intervals; nothing where the parts are something else."""
    found = [interval(part.math) for part in parts]
    if len(parts) < 2 or not all(found) or len({plain_name(one[0]) for one in found if one}) != 1:
        return []
    return [Part("\\cup ".join(one[1] for one in found if one))]


def grouped(parts: Sequence[Part], text: str) -> Part | None:
    """`1,234` and `58,500 \\text{ dollars}`, which were read as lists, as one number."""
    if any(part.percent or part.remark for part in parts[:-1]):
        return None
    joined = ",".join(part.math for part in parts)
    if re.fullmatch(r"[+-]?0,[0-9]{3,}", joined) and "".join(text.split()).strip("$").endswith(joined):
        return Part(joined.replace(",", "."), parts[-1].remark, parts[-1].percent)
    if not re.fullmatch(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?", joined, re.ASCII):
        return None
    if re.search(r"[0-9], +[0-9]", plain(text)) and not re.search(r",\\! *[0-9]", text):
        return None
    return Part(joined, parts[-1].remark, parts[-1].percent)
