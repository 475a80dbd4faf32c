"""Multiple choice: one letter, boxed or after the word "answer"."""

import re

from pipeline.rewards.text import final_boxes, tail
from pipeline.rewards.types import Extra, RewardLabel, Verifier, verdict, wrong_format

BOX = "\\boxed{"
_LETTER = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf) ?\{)?\s*+\(?\s*+([A-Za-z])\s*+\)?\s*+[.:]?\s*+\}?", re.ASCII)
_AFTER_ANSWER = re.compile(r"answer(?:\s++is)?\s*+:?\s*+\**+\(?([A-Z])\)?(?![A-Za-z])", re.ASCII)


def one_letter(text: str) -> str | None:
    r"""`B`, `(b)`, `\text{B}` and `B.` are the letter B; `A, B` and prose are none."""
    match = _LETTER.fullmatch(text.strip().strip("$"))
    return match.group(1).upper() if match else None


def reduce(response: str) -> str:
    r"""`\boxed{…}`, or the letter after the last "answer", or the response itself when it is one letter."""
    parts = final_boxes(response)
    if parts:
        return f"{BOX}{', '.join(parts)}}}"
    end = tail(response)
    stated = _AFTER_ANSWER.findall(end.replace("Answer", "answer"))
    return stated[-1] if stated else (one_letter(end) or "")


def shortcut(reduced: str, answer: str, require_boxed: bool) -> RewardLabel:
    """The whole verifier. Status error when the gold is not a letter."""
    gold = one_letter(answer)
    if gold is None:
        return RewardLabel(0.0, "error", None, f"the gold answer {answer!r:.200} is not one letter")
    boxed = reduced.startswith(BOX)
    if require_boxed and not boxed:
        return wrong_format("no \\boxed{} answer")
    given = one_letter(reduced[len(BOX) : -1] if boxed else reduced)
    return verdict(given == gold, given, formatted=boxed) if given else wrong_format("no single letter is chosen")


def grade(response: str, answer: str, extra: Extra) -> RewardLabel:
    return shortcut(response, answer, require_boxed=False)


VERIFIER = Verifier("multiple_choice", "1", grade, reduce, shortcut)
