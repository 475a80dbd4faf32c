r"""Finding the answer in a response, in linear time: this runs outside the limits, over text a model wrote."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_SEARCHED = 100_000
"""Characters at the end of a response that are searched for a box. Normal responses are a tenth of it."""
TAIL = 2_000
"""Characters at the end of a response without a box in which an answer is looked for."""

_BRACES = re.compile(r"\\(?:boxed|fbox) ?\{|\\.|[{}]", re.DOTALL)
_JOINED = re.compile(r"(?:[\s$.,;:&()\[\]\\]|\b(?:and|or|text|quad)\b|[{}])*")
_BOX_START = re.compile(r"\\(?:boxed|fbox) ?\{")
_SENTENCE_BETWEEN = 120
"""Characters between boxes that may belong to one answer: one box a case, joined by a sentence."""
_MOVES_ON = re.compile(
    r"\b(?:then|so|thus|hence|therefore|now|final|finally|answer|next|gives?|get|since|because|which|but|wait)\b|[.!?]\s|\n\s*\n",
    re.IGNORECASE,
)
_FINALLY = re.compile(r"\bfinal answer(?: is)?\b\s*:?\s*(?:the final answer is\s*:?)?", re.IGNORECASE)
_SAYS_VALUE = re.compile(r"[0-9$\\.+*(\[{\"-]|[A-Z]\W*\Z")
_STATED = re.compile(r"####|\b(?:final )?answer(?: is| would be| must be|:|\s*=)\s*:?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?:\s+(?=[A-Z])|\s*\Z)|\s+I hope\b|\n")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Box:
    r"""`\boxed{content}`: `start` is the index of the backslash, `end` the index after the closing brace."""

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    """Outermost closed boxes in order. Unclosed ones do not count, nor does text before the last 100,000 characters."""
    return list(_boxes(text[-LONGEST_SEARCHED:]))


@functools.lru_cache(maxsize=4)  # one response is asked for its boxes several times
def _boxes(text: str) -> tuple[Box, ...]:
    first = min((i for i in (text.find("\\boxed"), text.find("\\fbox")) if i >= 0), default=-1)
    if first < 0:
        return ()
    spans: list[tuple[int, int, int]] = []  # start, content start, end; of the outermost so far
    for start, inside, end in _closed(text, first):
        if inside:
            while spans and spans[-1][0] > start:
                spans.pop()  # nested in this one
            spans.append((start, inside, end))
    return tuple(Box(start, end, text[inside : end - 1]) for start, inside, end in spans)


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
    contents = [strip_nested(box.content) for box in found[first:]]
    return [text for place, text in enumerate(contents) if place == 0 or text != contents[place - 1]]


def unclosed_box(text: str) -> str | None:
    r"""The rest of the line behind a last `\boxed{` that is never closed, or None.

    An answer that was begun takes the place of the boxes before it.
    """
    text = text[-LONGEST_SEARCHED:]
    last = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    match = _BOX_START.match(text, last) if last >= 0 else None
    if match is None:
        return None
    found = boxes(text)
    if found and found[-1].end > match.start():
        return None
    return text[match.end() :].partition("\n")[0].strip().rstrip("$").strip()


def boxes_of_one_sentence(text: str) -> list[str]:
    r"""Contents of the last boxes that one sentence holds: `\boxed{5} for even n and \boxed{6} for odd n`.

    Longer than `final_boxes` only where a sentence says so; a word that moves on ("so", "then") ends it.
    """
    found = boxes(text)
    text = text[-LONGEST_SEARCHED:]
    first = len(found) - 1
    while first > 0 and found[first].start - found[first - 1].end <= _SENTENCE_BETWEEN:
        between = text[found[first - 1].end : found[first].start]
        joined = _JOINED.fullmatch(between) or re.search(r"\b(?:and|or)\b|[,;&]", between)
        if not joined or _MOVES_ON.search(between):
            break
        first -= 1
    return [strip_nested(box.content) for box in found[max(first, 0) :]]


def without_thoughts(text: str) -> str:
    """What stands behind the last `</think>`, and before a `<think>` that is never closed."""
    closed = text.rfind("</think>")
    text = text[closed + len("</think>") :] if closed >= 0 else text
    opened = text.find("<think>")
    return text[:opened] if opened >= 0 else text


def last_tagged(text: str) -> tuple[str, int] | None:
    """The text of the last `<answer>` tags and where they end in the searched part, or None."""
    text = text[-LONGEST_SEARCHED:]
    closed = text.rfind("</answer>")
    opened = text.rfind("<answer>", 0, closed) if closed >= 0 else -1
    return (text[opened + len("<answer>") : closed].strip(), closed) if opened >= 0 else None


def stated_finally(text: str) -> str | None:
    """What "final answer" names behind the last box; None where nothing is said there."""
    found = boxes(text)
    text = text[-LONGEST_SEARCHED:]
    match = _FINALLY.search(text, found[-1].end if found else 0)
    if match is None or not (said := _sentence(text[match.end() : match.end() + TAIL])):
        return None
    return said if _SAYS_VALUE.match(said) else None


def stated(text: str) -> str | None:
    """What "answer is", "answer:" or "####" names last, to the end of its sentence; None without such words."""
    last = last_match(_STATED, text)
    return _sentence(text[last.end() :]) or None if last else None


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last of the matches that do not overlap, or None."""
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


def _sentence(text: str) -> str:
    text = text.strip()
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip()


def strip_nested(content: str) -> str:
    r"""`\boxed{\boxed{5}}` answers 5."""
    if not content.startswith(("\\boxed", "\\fbox")):
        return content.strip()
    pairs = {start: (inside, end) for start, inside, end in _closed(content, 0) if inside}
    start, end = 0, len(content)
    while start in pairs and pairs[start][1] == end:
        start, end = pairs[start][0], end - 1
    return content[start:end].strip()


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
    if text is None or (text.isascii() and len(text) <= longest):
        return text
    return text[:longest].encode("utf-8", "replace").decode()
