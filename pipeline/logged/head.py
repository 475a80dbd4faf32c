"""What the first rows of a log tell: how they were read, and what they lack for good."""

import json
from collections.abc import Sequence

from pipeline.config.training import OBJECTIVE_NEEDS
from pipeline.logged.fields import Candidate
from pipeline.logged.settings import ImportSettings
from pipeline.logged.shapes import Shape
from pipeline.logged.tokens import Tokenized

_TEXT = 60


def lacking(first: Sequence[Candidate], shape: Shape, settings: ImportSettings) -> list[str]:
    """What the first rows do not hold, one sentence each, with what that rules out or leaves to a guess."""

    def missing(*values: object) -> str:
        """`no`, or `not every row has`, or nothing."""
        absent = sum(value in (None, "", []) for value in values)
        return "" if not absent else "no" if absent == len(values) else "some rows without"

    found: list[str] = []
    text = [each for each in first if each.response_ids is None]
    if text:
        how = missing(*(None if each.response_ids is None else 1 for each in first))
        found.append(f"{how} token ids: the text is tokenized again, perhaps into other tokens than were sampled")
    if how := missing(*(None if each.logprobs is None else 1 for each in first)):
        needing = " nor ".join(name for name, needs in OBJECTIVE_NEEDS.items() if needs.behavior_logprobs)
        found.append(
            f"{how} log-probs of the sampled tokens: no importance ratios, so neither {needing}, nor a measure of "
            "how far the policy has moved"
        )
    if how := missing(*(each.reward for each in first)):
        found.append(f"{how} rewards: `tbrm rewards --logged {settings.name}` makes them from the gold answers")
    if how := missing(*(each.answer for each in first)):
        found.append(f"{how} gold answers: no verifier that compares with one can label the responses anew")
    if (how := missing(*(each.finish_reason for each in first))) and settings.length_limit is None:
        added = ", and get the end-of-sequence token" if text and settings.append_eos else ""
        found.append(
            f"{how} finish reasons: such responses count as ended by themselves{added} (--length-limit, "
            "--no-append-eos)"
        )
    if (how := missing(*(each.policy for each in first))) and settings.policy == "unknown":
        found.append(f"{how} name of the behaviour policy: it is called 'unknown' (--policy)")
    return [*found, *shape.notes]


def shown(row: Tokenized) -> str:
    """A row as it was read, in one line."""
    candidate = row.candidate
    reward = "none" if candidate.reward is None else f"{candidate.reward:g}"
    parts = ", ".join(f"{name[:_TEXT]} {value:g}" for name, value in list(candidate.components.items())[:8])
    told = f"reward {reward}" + (f" ({parts})" if parts else "")
    gold = f", gold {_short(row.answer)}" if row.answer else ""
    return (
        f"prompt {_short(row.prompt_text)}, response {_short(row.response_text)} ({len(row.response_ids)} tokens, "
        f"{row.finish_reason}), {told}{gold}"
    )


def _short(text: str) -> str:
    half = _TEXT // 2
    return json.dumps(text if len(text) <= _TEXT else f"{text[:half]} … {text[-half:]}", ensure_ascii=False)
