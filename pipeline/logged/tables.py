"""Tokenized trajectories as rows of the store's tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.logged.fields import Bad, Candidate
from pipeline.logged.tokens import Tokenized
from pipeline.store import SCHEMAS, code_version, trajectory_id

LOGGED_VERIFIER = "logged"


def make_tables(
    found: Sequence[Tokenized | Bad], first: int, known_prompts: set[str], dataset: str, generation: int, policy: str
) -> dict[str, pa.RecordBatch]:
    """Rows of prompts, rollouts, rewards and quarantine, a part of one shard.

    `first` is the number of trajectories before these; a trajectory's place in the data set is its sample_index.
    `known_prompts` are the ids of the shard's prompts so far; new ones are added.
    """
    good = [each for each in found if isinstance(each, Tokenized)]
    rollouts = [_Rollout(each, _prompt_id(each), number) for number, each in enumerate(good, start=first)]
    prompts: dict[str, _Rollout] = {}
    for rollout in rollouts:
        if rollout.prompt_id not in known_prompts:
            prompts[rollout.prompt_id] = rollout
            known_prompts.add(rollout.prompt_id)
    bad = [vars(each) for each in found if isinstance(each, Bad)]
    trajectories = [trajectory_id(dataset, generation, each.prompt_id, each.number) for each in rollouts]
    return {
        "prompts": _prompts(list(prompts.values()), dataset),
        "rollouts": _rollouts(rollouts, trajectories, generation, policy),
        "rewards": _rewards(good, trajectories),
        "quarantine": pa.RecordBatch.from_pylist(bad, SCHEMAS["quarantine"]),
    }


@dataclass(frozen=True, slots=True)
class _Rollout:
    tokenized: Tokenized
    prompt_id: str
    number: int


def _prompt_id(each: Tokenized) -> str:
    """The id derives from the prompt's content: rows that give one id to different prompts become two prompts."""
    candidate = each.candidate
    content = "\x1f".join((each.prompt_text, each.answer, candidate.verifier, candidate.extra))
    digest = xxhash.xxh3_64_hexdigest(content.encode())
    if candidate.prompt_id and (candidate.prompt_id == digest or candidate.prompt_id.endswith(f"-{digest[:8]}")):
        return candidate.prompt_id  # exported, and imported again
    return f"{candidate.prompt_id}-{digest[:8]}" if candidate.prompt_id else digest


def _prompts(rows: Sequence[_Rollout], dataset: str) -> pa.RecordBatch:
    good = [row.tokenized for row in rows]
    return _batch(
        "prompts",
        {
            "prompt_id": [row.prompt_id for row in rows],
            "prompt_text": [each.prompt_text for each in good],
            "prompt_token_ids": _lists([each.prompt_ids for each in good], np.int32),
            "answer": [each.answer for each in good],
            "verifier": [each.candidate.verifier for each in good],
            "source": [dataset] * len(rows),
            "extra": [each.candidate.extra for each in good],
        },
    )


def _rollouts(rows: Sequence[_Rollout], trajectories: list[str], generation: int, policy: str) -> pa.RecordBatch:
    good = [row.tokenized for row in rows]
    return _batch(
        "rollouts",
        {
            "trajectory_id": trajectories,
            "prompt_id": [row.prompt_id for row in rows],
            "sample_index": [row.number for row in rows],
            "prompt_token_ids": _lists([each.prompt_ids for each in good], np.int32),
            "response_token_ids": _lists([each.response_ids for each in good], np.int32),
            "response_text": [each.response_text for each in good],
            "finish_reason": [each.finish_reason for each in good],
            "policy_id": [_policy(each.candidate, policy) for each in good],
            "generation": [generation] * len(rows),
            "sampling": [{"engine": each.engine, "engine_version": code_version()} for each in good],
            "response_mask": _lists([each.mask for each in good], np.bool_),
            "behavior_logprobs": _lists([each.logprobs for each in good], np.float32),
        },
    )


def _policy(candidate: Candidate, default: str) -> str:
    """The behaviour policy, with the version that the log tells: `name@step3`, `name@v12`."""
    name = candidate.policy or default
    return f"{name}@{candidate.version}" if candidate.version else name


def _rewards(good: Sequence[Tokenized], trajectories: Sequence[str]) -> pa.RecordBatch:
    rows = [
        {
            "trajectory_id": trajectory,
            "reward": each.candidate.reward,
            "status": "ok",
            "verifier": LOGGED_VERIFIER,
            "verifier_version": "",
            "components": list(each.candidate.components.items()),
        }
        for each, trajectory in zip(good, trajectories, strict=True)
        if each.candidate.reward is not None
    ]
    return pa.RecordBatch.from_pylist(rows, SCHEMAS["rewards"])


def _batch(table: str, columns: "Mapping[str, list[Any] | pa.Array[Any]]") -> pa.RecordBatch:
    schema = SCHEMAS[table]
    arrays = [
        each if isinstance(each, pa.Array) else pa.array(each, field.type)
        for field, each in ((field, columns[field.name]) for field in schema)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _lists(rows: Sequence[npt.NDArray[Any] | None], kind: type[np.generic]) -> "pa.Array[Any]":
    """One list for each row, null for None, without a Python object for each number."""
    lengths = [0 if row is None else len(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = np.concatenate([np.zeros(0, kind), *(row for row in rows if row is not None)])
    absent = pa.array([row is None for row in rows], pa.bool_())
    of: Any = pa.ListArray.from_arrays  # its types know no offsets beside a mask
    return of(pa.array(offsets), pa.array(values.astype(kind, copy=False)), mask=absent)
