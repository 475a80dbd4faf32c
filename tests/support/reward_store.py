"""A store with prompts and rollouts to label."""

import json
from typing import Any

import pyarrow as pa

from pipeline.config import Experiment, build_experiment
from pipeline.store import SCHEMAS, Store, trajectory_id

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 8, "seed": 0, "engine": "test", "engine_version": "0"}


def experiment(**rewards: Any) -> Experiment:
    """An experiment `toy` that grades in this way."""
    tree: dict[str, Any] = {
        "name": "toy",
        "generations": 1,
        "policy": {"base": "builtin:tiny-arith"},
        "prompts": {"source": "arithmetic", "template": "raw", "per_generation": 1},
        "rollouts": {},
        "rewards": {"workers": 1, **rewards},
        "training": {},
    }
    return build_experiment(tree, "test")


def response_to(prompt: int, sample: int) -> str:
    """Sample 0 is right, sample 1 wrong, sample 2 empty."""
    return [f"so \\boxed{{\\frac{{{prompt}}}{{7}}}}", f"\\boxed{{{prompt}}}", ""][sample]


def fill(
    store: Store, shards: int = 2, prompts: int = 6, verifier: str = "", extra: Any = None, generation: int = 0
) -> None:
    """Tables `prompts` and `rollouts` of experiment `toy`, three rollouts for each prompt."""
    with (
        store.partition("toy", "prompts", generation).writer("h", {}) as prompt_writer,
        store.partition("toy", "rollouts", generation).writer("h", {}) as rollout_writer,
    ):
        for shard in range(shards):
            numbers = range(1 + shard * prompts, 1 + (shard + 1) * prompts)
            prompt_writer.write(shard, _prompts(numbers, verifier, extra))
            rollout_writer.write(shard, _rollouts(numbers, generation))
        prompt_writer.commit(shards)
        rollout_writer.commit(shards)


def _prompts(numbers: range, verifier: str, extra: Any) -> pa.Table:
    rows = [
        {
            "prompt_id": f"p{n}",
            "prompt_text": f"{n} sevenths?",
            "prompt_token_ids": [n],
            "answer": f"{n}/7",
            "verifier": verifier,
            "source": "test",
            "extra": json.dumps(extra or {}),
        }
        for n in numbers
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["prompts"])


def _rollouts(numbers: range, generation: int) -> pa.Table:
    rows = [
        {
            "trajectory_id": trajectory_id("toy", generation, f"p{n}", sample),
            "prompt_id": f"p{n}",
            "sample_index": sample,
            "prompt_token_ids": [n],
            "response_token_ids": [1, 2, 3],
            "response_text": response_to(n, sample),
            "finish_reason": "stop",
            "policy_id": "none",
            "generation": generation,
            "sampling": SAMPLING,
        }
        for n in numbers
        for sample in range(3)
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["rollouts"])
