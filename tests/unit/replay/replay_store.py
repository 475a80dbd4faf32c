"""Small stores of made-up trajectories for the tests of replay."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import Experiment, build_experiment
from pipeline.store import SCHEMAS, Store, open_store, trajectory_id

REFERENCE = "feedfacefeedface"


def make_experiment(replay: dict[str, Any] | None = None, **top: Any) -> Experiment:
    tree: dict[str, Any] = {
        "name": "exp",
        "seed": 3,
        "generations": 5,
        "policy": {"base": "builtin:tiny-arith"},
        "prompts": {"source": "arithmetic", "per_generation": 8},
        "rollouts": {"n": 2},
        "training": {"objective": "tbrm"},
        "replay": replay or {},
    }
    return build_experiment(tree | top, "test")


def make_store(root: Path | str, experiment: str = "exp") -> Store:
    """A store in which policy[0] of `exp` is published as REFERENCE."""
    store = open_store(str(root))
    pointer = {"policy_id": REFERENCE, "folder": f"{experiment}/nowhere", "parents": {}}
    store.write_atomic(store.join(experiment, "policy", "generation=0000", "policy.json"), json.dumps(pointer).encode())
    return store


def rollout_rows(
    dataset: str, generation: int, shard: int, prompts: int, n: int, salt: int = 0
) -> list[dict[str, Any]]:
    """`n` responses of 1 to 6 tokens to each of `prompts` prompts; the last response of a prompt is cut."""
    rng = np.random.default_rng((len(dataset), generation, shard, salt))
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 6, "seed": 0, "engine": "test", "engine_version": "1"}
    return [
        {
            "trajectory_id": trajectory_id(dataset, generation, f"p{shard}-{p}", sample),
            "prompt_id": f"p{shard}-{p}",
            "sample_index": sample,
            "prompt_token_ids": [5, p + 1, shard + 1],
            "response_token_ids": rng.integers(1, 9, rng.integers(1, 7)).tolist(),
            "response_text": "text",
            "finish_reason": "length" if sample == n - 1 and n > 1 else "stop",
            "policy_id": "behaviour",
            "generation": generation,
            "sampling": sampling,
            "response_mask": None,
            "behavior_logprobs": None,
        }
        for p in range(prompts)
        for sample in range(n)
    ]


def reward_rows(rollouts: list[dict[str, Any]], reward: Any = None) -> list[dict[str, Any]]:
    """Reward 1 for a response whose first token is even, unless `reward(row)` says otherwise."""
    chosen = reward or (lambda row: float(row["response_token_ids"][0] % 2 == 0))
    base = {"status": "ok", "verifier": "test", "verifier_version": "1"}
    return [{"trajectory_id": row["trajectory_id"], "reward": chosen(row)} | base for row in rollouts]


def reference_rows(rollouts: list[dict[str, Any]], policy_id: str = REFERENCE) -> list[dict[str, Any]]:
    return [
        {
            "trajectory_id": row["trajectory_id"],
            "ref_logprob_sum": -1.0 * len(row["response_token_ids"]),
            "ref_token_logprobs": [-1.0] * len(row["response_token_ids"]),
            "ref_value_first": 3.0,
            "ref_policy_id": policy_id,
        }
        for row in rollouts
    ]


def write_table(
    store: Store, dataset: str, table: str, generation: int, shards: list[list[dict[str, Any]]], parents: dict[str, str]
) -> str:
    """Commit `shards` and return the manifest's hash."""
    schema = SCHEMAS[table.partition("@")[0]]
    with store.partition(dataset, table, generation).writer("test", parents) as writer:
        for index, rows in enumerate(shards):
            writer.write(index, pa.Table.from_pylist(rows, schema))
        return writer.commit(len(shards)).hash


def write_generation(
    store: Store,
    dataset: str,
    generation: int = 0,
    *,
    shards: int = 2,
    prompts: int = 4,
    n: int = 2,
    tables: tuple[str, ...] = ("rewards", "ref_logprobs"),
    reward: Any = None,
    reference: str = REFERENCE,
    rollouts: list[list[dict[str, Any]]] | None = None,
) -> list[list[dict[str, Any]]]:
    """Rollouts with their sidecars; returns the rollout rows by shard."""
    made = rollouts or [rollout_rows(dataset, generation, s, prompts, n) for s in range(shards)]
    origin = write_table(store, dataset, "rollouts", generation, made, {})
    parents = {store.partition(dataset, "rollouts", generation).name: origin}
    for table in tables:
        if table.startswith("rewards"):
            write_table(store, dataset, table, generation, [reward_rows(rows, reward) for rows in made], parents)
        else:
            rows = [reference_rows(shard, reference) for shard in made]
            write_table(store, dataset, table, generation, rows, parents | {"reference policy": reference})
    return made
