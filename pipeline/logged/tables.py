"""Tokenized trajectories as rows of the store's tables."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import xxhash

from pipeline.logged.fields import Bad
from pipeline.logged.tokens import Tokenized
from pipeline.store import SCHEMAS, code_version, trajectory_id

LOGGED_VERIFIER = "logged"


def make_tables(
    found: Sequence[Tokenized | Bad], first: int, dataset: str, generation: int, policy: str
) -> dict[str, pa.Table]:
    """One shard of prompts, rollouts, rewards and quarantine.

    `first` is the number of trajectories in earlier shards; a trajectory's place in the data set is its sample_index.
    """
    good = [each for each in found if isinstance(each, Tokenized)]
    prompts: dict[str, dict[str, Any]] = {}
    rollouts: list[dict[str, Any]] = []
    rewards: list[dict[str, Any]] = []
    for number, each in enumerate(good, start=first):
        prompt = _prompt(each, dataset)
        prompts.setdefault(prompt["prompt_id"], prompt)
        rollout = _rollout(each, prompt["prompt_id"], number, dataset, generation, policy)
        rollouts.append(rollout)
        if each.candidate.reward is not None:
            rewards.append(_reward(each, rollout["trajectory_id"]))
    bad = [vars(each) for each in found if isinstance(each, Bad)]
    rows = {"prompts": list(prompts.values()), "rollouts": rollouts, "rewards": rewards, "quarantine": bad}
    return {table: pa.Table.from_pylist(each, SCHEMAS[table]) for table, each in rows.items()}


def _prompt(each: Tokenized, dataset: str) -> dict[str, Any]:
    """The prompt's id is derived from its content: rows that disagree about an id make two prompts, not a wrong one."""
    candidate = each.candidate
    extra = json.dumps(candidate.extra, sort_keys=True, default=str)
    content = "\x1f".join((each.prompt_text, each.answer, candidate.verifier, extra))
    digest = xxhash.xxh3_64_hexdigest(content.encode())
    return {
        "prompt_id": f"{candidate.prompt_id}-{digest[:8]}" if candidate.prompt_id else digest,
        "prompt_text": each.prompt_text,
        "prompt_token_ids": each.prompt_ids,
        "answer": each.answer,
        "verifier": candidate.verifier,
        "source": dataset,
        "extra": extra,
    }


def _rollout(
    each: Tokenized, prompt_id: str, number: int, dataset: str, generation: int, policy: str
) -> dict[str, Any]:
    logprobs = each.candidate.logprobs
    return {
        "trajectory_id": trajectory_id(dataset, generation, prompt_id, number),
        "prompt_id": prompt_id,
        "sample_index": number,
        "prompt_token_ids": each.prompt_ids,
        "response_token_ids": each.response_ids,
        "response_text": each.response_text,
        "finish_reason": each.finish_reason,
        "policy_id": each.candidate.policy or policy,
        "generation": generation,
        "sampling": {"engine": each.engine, "engine_version": code_version()},
        "response_mask": each.mask,
        "behavior_logprobs": None if logprobs is None else logprobs.tolist(),
    }


def _reward(each: Tokenized, trajectory: str) -> dict[str, Any]:
    return {
        "trajectory_id": trajectory,
        "reward": each.candidate.reward,
        "status": "ok",
        "verifier": LOGGED_VERIFIER,
        "verifier_version": "",
        "components": list(each.candidate.components.items()),
    }
