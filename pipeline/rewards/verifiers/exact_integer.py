"""Integer answers as in AIME: digits compared as numbers, nothing else counts."""

import re

from pipeline.rewards.text import as_integer, final_boxes, tail
from pipeline.rewards.types import Extra, RewardLabel, Verifier, verdict, wrong_format

BOX = "\\boxed{"
_NUMBERS = re.compile(r"(?<![\w.,])[+-]?[0-9][0-9,]*(?:\.[0-9]+)?", re.ASCII)
_THOUSANDS = re.compile(r"([+-]?)([0-9]{1,3})((?:,[0-9]{3})+)", re.ASCII)


def to_integer(text: str) -> int | None:
    """`025`, `1,234`, `27.0`, `$27$` and `336^\\circ` are integers; `1,2`, `27.5` and Unicode digits are not."""
    text = text.strip().strip("$").replace("{,}", ",").replace("\\!", "")
    text = text.removesuffix("^\\circ").removesuffix("^{\\circ}").strip()
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return as_integer(re.sub(r"\.0+$", "", text))


def reduce(response: str) -> str:
    r"""The boxed answer as `\boxed{…}`, else the last number of the tail."""
    parts = final_boxes(response)
    if parts:
        return f"{BOX}{', '.join(parts)}}}"
    numbers = _NUMBERS.findall(tail(response))
    return numbers[-1].rstrip(",") if numbers else ""


def shortcut(reduced: str, answer: str, require_boxed: bool) -> RewardLabel:
    """The whole verifier: comparing 18 digits needs no worker. Status error when the gold is not an integer."""
    gold = to_integer(answer)
    if gold is None:
        return RewardLabel(0.0, "error", None, f"the gold answer {answer!r:.200} is not an integer of up to 18 digits")
    boxed = reduced.startswith(BOX)
    if require_boxed and not boxed:
        return wrong_format("no \\boxed{} answer")
    text = reduced[len(BOX) : -1] if boxed else reduced
    given = to_integer(text)
    if given is None:
        return wrong_format("the answer is not one integer", text or None)
    return verdict(given == gold, text, formatted=boxed)


def grade(response: str, answer: str, extra: Extra) -> RewardLabel:
    return shortcut(response, answer, require_boxed=False)


VERIFIER = Verifier("exact_integer", "1", grade, reduce, shortcut)
