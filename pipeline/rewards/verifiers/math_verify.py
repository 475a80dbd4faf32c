r"""Math-Verify: LaTeX and expressions, compared by value. Boxed first, and the gold answer is boxed before parsing.

Math-Verify's own timeout is off: it uses SIGALRM, which fails in threads, cannot stop C code, and turns a timeout into
"wrong". The worker's limits stop what runs too long.
"""

import functools
import importlib.metadata
import logging
from typing import Any

from pipeline.rewards.text import as_integer, final_boxes, hedged, tail
from pipeline.rewards.types import Extra, RewardLabel, Verifier, verdict, wrong_format

BOX = "\\boxed{"
NO_TIMEOUT = 0
_SYMPY_ERRORS = (ArithmeticError, AttributeError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""What sympy raises on expressions it cannot compare (NotImplementedError and RecursionError are RuntimeErrors)."""


def reduce(response: str) -> str:
    r"""The final answer as one `\boxed{…}`, or the tail of a response that has no box."""
    parts = final_boxes(response)
    if not parts:
        return tail(response)
    return f"{BOX}{', '.join(part for part in parts if part) if parts[-1] else ''}}}"


def shortcut(reduced: str, answer: str, require_boxed: bool) -> RewardLabel | None:
    """Empty boxes, missing boxes, and integers of up to 18 digits on both sides, compared as Math-Verify would."""
    boxed = reduced.startswith(BOX)
    content = reduced[len(BOX) : -1] if boxed else reduced
    if not content.strip():
        return wrong_format("the box is empty" if boxed else "the response is empty")
    if require_boxed and not boxed:
        return wrong_format("no \\boxed{} answer")
    given, gold = as_integer(content), as_integer(answer)
    if given is not None and gold is not None:
        return verdict(given == gold, content.strip(), formatted=boxed)
    return None


@functools.cache
def _quiet() -> None:
    # It warns once a process that the caller must bring a timeout: the worker's limits are that.
    logging.getLogger("math_verify").setLevel(logging.ERROR)


@functools.lru_cache(maxsize=4096)
def parse_gold(answer: str) -> list[Any]:
    """The gold answer as Math-Verify sees it in a box; n rollouts of one prompt parse it once. [] when it cannot."""
    from math_verify import parse

    _quiet()
    plain = answer.strip().removeprefix("$").removesuffix("$")
    parsed = parse(plain if BOX in plain else f"{BOX}{plain}}}", parsing_timeout=NO_TIMEOUT)
    return parsed or parse(answer, parsing_timeout=NO_TIMEOUT)


def is_scalar(gold: Any) -> bool:
    """Whether a parsed gold answer is one value, not a set, interval, pair, matrix, equation or text."""
    from sympy import Expr

    return isinstance(gold, Expr)


def grade(response: str, answer: str, extra: Extra) -> RewardLabel:
    """Compare the final answer with the gold by value. Status error when sympy could not compare them."""
    from math_verify import parse, verify

    _quiet()
    gold = parse_gold(answer)
    if not gold:
        return RewardLabel(0.0, "error", None, f"the gold answer {answer!r:.200} cannot be parsed")
    given = parse(response, parsing_timeout=NO_TIMEOUT)
    formatted = response.startswith(BOX)
    if not given:
        return wrong_format("Math-Verify finds no answer", response[len(BOX) : -1] if formatted else None)
    extracted = str(given[-1])  # the text it was parsed from
    content = response[len(BOX) : -1]
    if formatted and content != answer and is_scalar(gold[0]) and hedged(content):
        return verdict(False, content, detail="several answers where one is asked for")
    try:
        return verdict(verify(gold, given, timeout_seconds=NO_TIMEOUT, raise_on_error=True), extracted, formatted)
    except _SYMPY_ERRORS as error:
        # One way to compare failed; the others decide. If none says "equal", nothing is known.
        if verify(gold, given, timeout_seconds=NO_TIMEOUT):
            return verdict(True, extracted, formatted)
        return RewardLabel(0.0, "error", extracted, f"not comparable: {type(error).__name__}: {error}"[:500])


def prepare() -> None:
    """The first expression builds the parser's tables, 0.1 to 0.3 s of a processor: more than all but hostile rows."""
    grade(f"{BOX}\\frac{{2}}{{9}}}}", "2/9", {})


VERIFIER = Verifier("math_verify", f"{importlib.metadata.version('math-verify')}+1", grade, reduce, shortcut, prepare)
