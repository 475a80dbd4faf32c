r"""Integer answers as in AIME: one integer, whatever stands beside it as its name, unit or dress.

`x = 25`, `25^\circ`, `25 \text{ ways}` and `\text{25}` are the integer 25. `\frac{50}{2}`, `25\%` and `24 + 1` are
none.
"""

import functools
import re

from pipeline.rewards.answers.numbers import read_number
from pipeline.rewards.answers.reading import LABEL, Unreadable, chain, read
from pipeline.rewards.text import as_integer, last_match, tail
from pipeline.rewards.types import DEFAULT, Conventions, Extra, RewardLabel, Verifier, verdict, wrong_format
from pipeline.rewards.verifiers import math_verify

BOX = math_verify.BOX
_NUMBERS = re.compile(r"(?<![\w.,])[+-]?[0-9][0-9,]*(?:\.[0-9]+)?", re.ASCII)
_THOUSANDS = re.compile(r"([+-]?)([0-9]{1,3})((?:,[0-9]{3})+)", re.ASCII)
_INTEGER = re.compile(r"[+-]? ?[0-9][0-9, ]{0,30}(?:\.0*)?", re.ASCII)
_DENIED = re.compile(r"\b(?:not|nor|or)\s+[$\\(]*\Z", re.IGNORECASE)


def to_integer(text: str) -> int | None:
    r"""`025`, `1,234`, `27.0`, `x = 27` and `336^\circ` are integers; `1,2`, `27.5`, and `25\%` are not."""
    if (found := as_integer(text)) is not None:
        return found
    text = text.strip().replace("{,}", ",").replace("\\!", "")
    if _THOUSANDS.fullmatch(text.strip("$")):
        return as_integer(text.strip("$").replace(",", ""))
    answer = read(text)
    if isinstance(answer, Unreadable):
        return None
    if answer.words:
        return as_integer(answer.words)
    if len(answer.parts) != 1 or answer.parts[0].percent:
        return None
    sides, relations = chain(answer.parts[0].math)
    if relations not in ([], ["="]) or (relations and not LABEL.fullmatch(sides[0])):
        return None
    value = sides[-1].strip("()").strip()
    number = read_number(value) if _INTEGER.fullmatch(value) else None
    return int(number.value) if number and number.whole and abs(number.value) < 10**18 else None


def reduce(response: str, conventions: Conventions = DEFAULT) -> str:
    r"""The answer as `\boxed{…}` or `<answer>…`, else the last number of the tail, unless a word denies it."""
    reduced = math_verify.final_part(response, conventions)
    if reduced.startswith(BOX):
        return reduced.partition("\n" + BOX)[0]
    if reduced.startswith(math_verify.TOLD):
        return reduced
    end = tail(reduced)
    last = last_match(_NUMBERS, end)
    if last is None or _DENIED.search(end[max(last.start() - 20, 0) : last.start()]):
        return ""
    return last.group().rstrip(",")


def shortcut(reduced: str, answer: str, require_boxed: bool) -> RewardLabel:
    """The whole verifier: comparing 18 digits needs no worker. Status error when the gold is not an integer."""
    gold = to_integer(answer)
    if gold is None:
        return RewardLabel(0.0, "error", None, f"the gold answer {answer!r:.200} is not an integer of up to 18 digits")
    boxed = reduced.startswith(BOX)
    if require_boxed and not boxed:
        return wrong_format("no \\boxed{} answer")
    text = math_verify.content_of(reduced)
    given = to_integer(text)
    if given is None:
        return wrong_format("the answer is not one integer", text or None)
    return verdict(given == gold, text, formatted=boxed)


def grade(response: str, answer: str, extra: Extra) -> RewardLabel:
    return shortcut(response, answer, require_boxed=False)


def verifier(conventions: Conventions) -> Verifier:
    """The verifier under these conventions."""
    version = f"2{conventions.suffix()}"
    return Verifier("exact_integer", version, grade, functools.partial(reduce, conventions=conventions), shortcut)


VERIFIER = verifier(DEFAULT)
