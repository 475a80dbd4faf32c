"""Stored trajectories as items to grade."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import StoreError, TbrmError
from pipeline.rewards.types import GradeItem
from pipeline.store import Partition

_ROLLOUTS = ("trajectory_id", "prompt_id", "response_text", "response_token_ids")
_PROMPTS = ("prompt_id", "answer", "verifier", "extra")


@dataclass(frozen=True)
class Labelled:
    """A stored trajectory with what is needed to grade it."""

    trajectory_id: str
    item: GradeItem


def read_items(
    rollouts: Partition, prompts: Partition, index: int, verifier: str | None = None, token_rewards: bool = False
) -> list[Labelled]:
    """The trajectories of rollout shard `index`, each with its prompt's answer. Raises StoreError for an orphan."""
    questions = {row["prompt_id"]: row for row in prompts.read_shard(index, _PROMPTS).to_pylist()}
    found: list[Labelled] = []
    for number, row in enumerate(rollouts.read_shard(index, _ROLLOUTS).to_pylist()):
        question = questions.get(row["prompt_id"])
        if question is None:
            raise StoreError(
                f"{rollouts.name} shard {index} row {number}: prompt {row['prompt_id']!r} is not in shard {index} of "
                f"{prompts.name}; write the rollouts again with --replace"
            )
        extra = _extra(question, f"{prompts.name} shard {index}, prompt {row['prompt_id']}")
        if token_rewards:
            extra = {**extra, "response_token_ids": row["response_token_ids"]}
        name = verifier or question["verifier"] or None
        item = GradeItem(row["response_text"], question["answer"], name, extra, len(row["response_token_ids"]))
        found.append(Labelled(row["trajectory_id"], item))
    return found


def named_items(prompts: Partition, index: int, verifier: str | None = None) -> Iterator[GradeItem]:
    """The verifiers and `extra` that the prompts of a shard name, each pair once, as items with nothing to grade."""
    columns = ("prompt_id", "verifier", "extra")
    rows = prompts.read_shard(index, columns).to_pylist()
    seen: dict[tuple[str | None, str | None], Any] = {(row["verifier"], row["extra"]): row for row in rows}
    for row in seen.values():
        extra = _extra(row, f"{prompts.name} shard {index}, prompt {row['prompt_id']}")
        yield GradeItem("", "", verifier or row["verifier"] or None, extra)


def _extra(question: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        extra = json.loads(question["extra"] or "{}")
    except json.JSONDecodeError as error:
        raise TbrmError(f"{where}: field `extra` is not JSON ({error}); import or sample the prompts again") from error
    if not isinstance(extra, dict):
        raise TbrmError(f"{where}: field `extra` must be a JSON object, not {type(extra).__name__}")
    return extra
