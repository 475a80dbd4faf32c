r"""Finding the answer in a response, in linear time: this runs outside the limits, over text a model wrote."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_SEARCHED = 100_000
"""Characters at the end of a response that are searched for a box. Normal responses are a tenth of it."""
TAIL = 2_000
"""Characters at the end of a response without a box in which an answer is looked for."""

_BRACES = re.compile(r"\\(?:boxed|fbox) ?\{|\\.|[{}]", re.DOTALL)
_JOINED = re.compile(r"(?:[\s$.,;:&()\[\]\\]|\b(?:and|or|text|quad)\b|[{}])*")
_LIST = re.compile(r"[,;]")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,|\{,\}|\\[,;:])(?:\\!)? ?(?=[0-9]{3}(?![0-9]))|\\[,;:!]", re.ASCII)
_BRACKETED = re.compile(r"[({\[][^(){}\[\]]*[)}\]]")
_PROSE = re.compile(r"\\(?:text|mathrm|mbox|textbf|textrm) ?\{([^{}]*)\}")
_EXPONENT_OR_DIGIT = re.compile(r"\^ ?(?:[0-9]|\{[^{}]*\})|(?P<digit>[0-9])", re.ASCII)
_TEXT = re.compile(r"\S")
_CHOICE = re.compile(r"\b(?:or|and)\b")
_DIGIT = re.compile(r"[0-9]", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Box:
    r"""`\boxed{content}`: `start` is the index of the backslash, `end` the index after the closing brace."""

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    """Outermost closed boxes in order. Unclosed ones do not count, nor does text before the last 100,000 characters."""
    text = text[-LONGEST_SEARCHED:]
    first = min((i for i in (text.find("\\boxed"), text.find("\\fbox")) if i >= 0), default=-1)
    if first < 0:
        return []
    spans: list[tuple[int, int, int]] = []  # start, content start, end; of the outermost so far
    for start, inside, end in _closed(text, first):
        if inside:
            while spans and spans[-1][0] > start:
                spans.pop()  # nested in this one
            spans.append((start, inside, end))
    return [Box(start, end, text[inside : end - 1]) for start, inside, end in spans]


def _closed(text: str, first: int) -> Iterator[tuple[int, int, int]]:
    """(start, content start, end) of every pair of braces in the order in which they close; 0 for one of no box."""
    opened: list[tuple[int, int]] = []
    for match in _BRACES.finditer(text, first):
        token = match.group()
        if token == "}":
            if opened:
                yield (*opened.pop(), match.end())
        elif token == "{":
            opened.append((match.start(), 0))
        elif token.endswith("{") and len(token) > 2:
            opened.append((match.start(), match.end()))


def final_boxes(text: str) -> list[str]:
    r"""Contents of the boxes that together are the final answer: the last one, and those joined to it.

    Boxes side by side, or with only punctuation, "and" or "or" between them, are one answer: `\boxed{5} or \boxed{6}`
    does not answer 6. A box further up is an intermediate result.
    """
    found = boxes(text)
    if not found:
        return []
    text = text[-LONGEST_SEARCHED:]
    first = len(found) - 1
    while first > 0 and found[first].start - found[first - 1].end <= 40:
        if not _JOINED.fullmatch(text, found[first - 1].end, found[first].start):
            break
        first -= 1
    return [strip_nested(box.content) for box in found[first:]]


def strip_nested(content: str) -> str:
    r"""`\boxed{\boxed{5}}` answers 5."""
    if not content.startswith(("\\boxed", "\\fbox")):
        return content.strip()
    pairs = {start: (inside, end) for start, inside, end in _closed(content, 0) if inside}
    start, end = 0, len(content)
    while start in pairs and pairs[start][1] == end:
        start, end = pairs[start][0], end - 1
    return content[start:end].strip()


def hedged(content: str) -> bool:
    r"""Whether a box that should hold one value holds several.

    Math-Verify drops units, and with them what is hidden there: it takes `30 \text{ cm}, 80 \text{ cm}`,
    `30 \text{ or 31}` and `30 \text{ cm} 31 \text{ cm}` for 30. A policy that lists guesses would be paid for it.
    """
    if _LIST.search(_BRACKETED.sub("", _THOUSANDS.sub("", content))):
        return True
    text, digit = _TEXT.search(content), _DIGIT.search(content)
    first_text = text.start() if text else len(content)
    first_digit = digit.start() if digit else len(content)
    last_value = max(_digits_outside_exponents(content), default=-1)
    for group in _PROSE.finditer(content):
        inside = group.group(1)
        if first_text < group.start() and (_DIGIT.search(inside) or _CHOICE.search(inside)):
            return True
        if first_digit < group.start() and last_value >= group.end():
            return True
    return False


def _digits_outside_exponents(content: str) -> Iterator[int]:
    """Where digits stand that are no part of `^2` or `^{…}`."""
    for match in _EXPONENT_OR_DIGIT.finditer(content):
        if match.lastgroup == "digit":
            yield match.start()


def tail(text: str) -> str:
    """The end of a response, cut at a line break so that no formula is cut in two."""
    if len(text) <= TAIL:
        return text
    end = text[-TAIL:]
    return end.partition("\n")[2] or end


def as_integer(text: str) -> int | None:
    """The value of up to 18 ASCII digits with an optional sign, else None. Unicode digits are not digits here."""
    text = text.strip()
    return int(text) if _INTEGER.fullmatch(text) else None


def storable(text: str | None, longest: int = 500) -> str | None:
    """Text as a Parquet string column takes it: no lone surrogates, and of bounded length."""
    if text is None:
        return None
    return text[:longest].encode("utf-8", "replace").decode()
