r"""Answers compared by value: our readers of numbers, units and lists, and Math-Verify's grammar for everything else.

Math-Verify's own timeout is off: it uses SIGALRM, which fails in threads, cannot stop C code, and turns a timeout into
"wrong". The worker's limits stop what runs too long.
"""

import functools
import importlib.metadata
import logging
import re
from typing import Any

from pipeline.rewards.answers.compare import compare
from pipeline.rewards.answers.numbers import agree, read_number
from pipeline.rewards.answers.reading import Unreadable, read
from pipeline.rewards.text import (
    LONGEST_SEARCHED,
    as_integer,
    boxes,
    boxes_of_one_sentence,
    final_boxes,
    last_tagged,
    stated,
    stated_finally,
    tail,
    unclosed_box,
    without_thoughts,
)
from pipeline.rewards.types import DEFAULT, Conventions, Extra, RewardLabel, Verifier, verdict, wrong_format

BOX = "\\boxed{"
TOLD = "<answer>"
"""Before the answer of a response that has one without a box: in tags, or behind "final answer"."""
PERCENT_SAID = "%\n"
"""Before the answer of a response that speaks of percent outside of its answer too."""
NO_TIMEOUT = 0
SHORT = 60
"""Characters of numbers that are compared without a worker."""
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$\\]+)")
_NEEDS_READING = re.compile(r"[,\\\\/()]")
_PERCENT_BEHIND = re.compile(r"\s*[$\\)]{0,4}\s*(?:%|percent\b)")
_FORMULA = re.compile(r"\$+([^$]+)\$+|\\\((.+?)\\\)|\\\[(.+?)\\\]|\*\*([^*]+)\*\*", re.DOTALL)
_DOUBT = re.compile(r"\b(?:not|nor|or|either|neither|maybe|perhaps)\s+[$\\(]*\Z", re.IGNORECASE)
_DOUBT_AFTER = re.compile(r"[$\\)]*,?\s+(?:or|nor)\b", re.IGNORECASE)


def reduce(response: str, conventions: Conventions = DEFAULT) -> str:
    r"""What decides a label: `final_part`, marked where its percent sign is no surprise."""
    return with_percent_said(response, final_part(response, conventions), conventions)


def with_percent_said(response: str, reduced: str, conventions: Conventions) -> str:
    """`reduced`, marked where it holds a percent sign and the rest of the response speaks of percent as well."""
    if conventions.percent_is_the_number != "where_said" or not (inside := _percents(reduced)):
        return reduced
    marked = reduced.startswith((BOX, TOLD)) and _percents(response[-LONGEST_SEARCHED:]) > inside
    return PERCENT_SAID + reduced if marked else reduced


def _percents(text: str) -> int:
    return text.count("%") + text.count("percent")


def final_part(response: str, conventions: Conventions = DEFAULT) -> str:
    r"""What decides a label: the final answer as `\boxed{…}` or `<answer>…`, or the tail of a response without either.

    Where a sentence joins several boxes, all of them follow in a second `\boxed{…}`: the gold answer says whether one
    or several are asked for.
    """
    if not conventions.answer_in_thoughts:
        response = without_thoughts(response)
    response = _BARE_BOX.sub(r"\\boxed{\1}", response)
    tagged = last_tagged(response)
    if tagged is not None and tagged[1] > _last_box(response):
        return reduce_told(tagged[0])
    if unclosed_box(response) is not None:
        return f"{BOX}}}"  # the answer was begun and is not given
    parts = final_boxes(response)
    if not parts:
        return tail(response)
    if said := stated_finally(response):
        return TOLD + said
    reduced = f"{BOX}{', '.join(part for part in parts if part) if parts[-1] else ''}}}"
    sentence = boxes_of_one_sentence(response)
    return reduced if len(sentence) <= len(parts) else f"{reduced}\n{BOX}{', '.join(sentence)}}}"


def reduce_told(text: str) -> str:
    """The answer of a text that is nothing else, such as what stands in answer tags."""
    parts = final_boxes(text) if unclosed_box(text) is None else [""]
    return f"{BOX}{', '.join(part for part in parts if part)}}}" if parts else TOLD + text


def _last_box(response: str) -> int:
    """Where the last box ends in the searched part, or is begun; -1 without a box."""
    found = boxes(response)
    return found[-1].end if found else -1


def content_of(reduced: str) -> str:
    """The answer in a reduced response, without what marks it."""
    reduced = reduced.removeprefix(PERCENT_SAID)
    if reduced.startswith(BOX):
        return reduced.partition("\n" + BOX)[0][len(BOX) : -1]
    return reduced.removeprefix(TOLD)


def shortcut(reduced: str, answer: str, require_boxed: bool, conventions: Conventions = DEFAULT) -> RewardLabel | None:
    """Empty boxes, missing boxes, and short numbers on both sides, compared as a worker would."""
    percent_said, reduced = reduced.startswith(PERCENT_SAID), reduced.removeprefix(PERCENT_SAID)
    boxed = reduced.startswith(BOX)
    content = content_of(reduced)
    if not content.strip():
        return wrong_format("the box is empty" if boxed else "the response is empty")
    if require_boxed and not boxed:
        return wrong_format("no \\boxed{} answer")
    if "\n" + BOX in reduced or percent_said:
        return None
    given, gold = as_integer(content), as_integer(answer)
    if given is not None and gold is not None:
        return verdict(given == gold, content.strip(), formatted=boxed)
    if (
        len(content) > SHORT
        or len(answer) > SHORT
        or not (boxed or reduced.startswith(TOLD))
        or _NEEDS_READING.search(content + answer)
    ):
        return None
    one, other = read_number(answer), read_number(content)
    if one is None or other is None:
        return None
    return verdict(agree(one, other, conventions.relative_tolerance), content.strip(), boxed)


@functools.cache
def _quiet() -> None:
    # It warns once a process that the caller must bring a timeout: the worker's limits are that.
    logging.getLogger("math_verify").setLevel(logging.ERROR)


def gold_text(answer: str) -> str:
    """The gold answer itself, where a solution, a box, tags or a sentence hold it."""
    tagged = last_tagged(answer)
    text = (tagged[0] if tagged else answer).replace("\\\\boxed", BOX[:-1])
    begun = unclosed_box(text) if BOX in text else None
    if begun is not None:
        return begun
    parts = boxes_of_one_sentence(text) if BOX in text else []
    if parts:
        percent = _PERCENT_BEHIND.match(text[-LONGEST_SEARCHED:], boxes(text)[-1].end)
        return ", ".join(parts) + ("\\%" if percent and not parts[-1].endswith("%") else "")
    said = stated_finally(text) if len(text) > SHORT else None
    return said or _without_lead(text)


_LEAD = re.compile(r"\s*(?:the |my |so the )?(?:final )?answer(?: is|:)\s*:?\s*", re.IGNORECASE)


def _without_lead(text: str) -> str:
    match = _LEAD.match(text)
    return text[match.end() :] if match and text[match.end() :].strip() else text


def grade(response: str, answer: str, extra: Extra, conventions: Conventions = DEFAULT) -> RewardLabel:
    """Compare the final answer with the gold by value. Status error where the gold answer is at fault."""
    _quiet()
    gold = gold_text(answer)
    percent_said, response = response.startswith(PERCENT_SAID), response.removeprefix(PERCENT_SAID)
    if response.startswith(BOX):
        content = content_of(response)
        found = compare(gold, content, conventions, percent_said)
        together = response.partition("\n" + BOX)[2][:-1]
        if not found.same and together:
            joined = compare(gold, together, conventions, percent_said)
            content, found = (together, joined) if joined.same else (content, found)
        return _label(found.same, content, True, found.reason)
    if response.startswith(TOLD):
        return _graded_text(gold, response[len(TOLD) :], conventions, percent_said)
    said = stated(response)
    if said and _has_value(said):
        return _graded_text(gold, said, conventions)
    line = response.strip().rpartition("\n")[2]
    if _has_value(line):
        return _graded_text(gold, line, conventions)
    return _extracted(gold, response, conventions)


def _has_value(text: str) -> bool:
    """Whether a text is an answer with a value in it."""
    found = read(text)
    return not isinstance(found, Unreadable) and not found.words


def _graded_text(gold: str, text: str, conventions: Conventions, percent_said: bool = False) -> RewardLabel:
    found = compare(gold, text, conventions, percent_said)
    if found.same is False and isinstance(read(text), Unreadable):
        formulas = [next(filter(None, match.groups())) for match in _FORMULA.finditer(text[-2_000:])]
        if len(formulas) == 1 and not _denies(text):
            found = compare(gold, formulas[0], conventions, percent_said)
            return _label(found.same, formulas[0].strip(), False, found.reason)
        if len(text) > 40 and not _denies(text):
            return _extracted(gold, text, conventions)
    return _label(found.same, text, False, found.reason)


def _denies(text: str) -> bool:
    return bool(re.search(r"\b(?:not|nor|neither|either|or|maybe|perhaps|except)\b|\\neq|\\ne\b", text, re.IGNORECASE))


def _extracted(gold: str, text: str, conventions: Conventions) -> RewardLabel:
    """What Math-Verify finds in a text, compared as an answer."""
    from math_verify import parse

    given: list[Any] = parse(text, parsing_timeout=NO_TIMEOUT)
    if not given:
        return wrong_format("no answer is found")
    extracted = str(given[-1])  # the text it was parsed from
    place = text.rfind(extracted)
    if place >= 0 and (
        _DOUBT.search(text[max(place - 40, 0) : place]) or _DOUBT_AFTER.match(text, place + len(extracted))
    ):
        return verdict(False, extracted, formatted=False, detail="the answer is one of several, or denied")
    found = compare(gold, extracted, conventions)
    return _label(found.same, extracted, False, found.reason)


def _label(same: bool | None, extracted: str, formatted: bool, reason: str) -> RewardLabel:
    if same is None:
        return RewardLabel(0.0, "error", extracted, reason[:500])
    return verdict(same, extracted, formatted, None if same else reason[:500])


def prepare() -> None:
    """The first expression builds the parser's tables, 0.1 to 0.3 s of a processor: more than all but hostile rows."""
    grade(f"{BOX}\\frac{{x+2}}{{9}}}}", "(x+2)/9", {})
    from math_verify import parse

    _quiet()
    parse("so 2/9", parsing_timeout=NO_TIMEOUT)


def verifier(conventions: Conventions) -> Verifier:
    """The verifier under these conventions."""
    version = f"{importlib.metadata.version('math-verify')}+2{conventions.suffix()}"
    return Verifier(
        "math_verify",
        version,
        functools.partial(grade, conventions=conventions),
        functools.partial(reduce, conventions=conventions),
        functools.partial(shortcut, conventions=conventions),
        prepare,
    )


VERIFIER = verifier(DEFAULT)
