"""A store with a tiny policy, one generation sampled from it, and the same trajectories as a logged data set."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import Experiment, build_experiment
from pipeline.rewards.stage import run_rewards
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store, open_store, trajectory_id
from trainer.stages.base_policy import run_base_policy

LOGGED = "somebodys_run"


def make_experiment(**changes: Any) -> Experiment:
    """`small`: 8 prompts x 2 rollouts a generation, one update; `changes` replace top-level fields."""
    tree: dict[str, Any] = {
        "name": "small",
        "seed": 5,
        "generations": 2,
        "policy": {"base": "builtin:tiny-arith", "dtype": "float32"},
        "prompts": {"source": "arithmetic", "template": "raw", "per_generation": 8},
        "rollouts": {"engine": "transformers", "n": 2, "max_tokens": 4, "prompts_per_shard": 4, "batch_size": 16},
        "rewards": {"verifier": "plain", "workers": 1, "audit_sample": 0},
        "training": {"beta": 0.1, "learning_rate": 1e-3, "prompt_batch": 8, "weight_decay": 0.0},
    }
    return build_experiment(tree | changes, "test")


def make_store(root: Path) -> Store:
    """policy[0] of `small`, its generation 0 with rewards, and the logged data set."""
    store, experiment = open_store(str(root)), make_experiment()
    run_base_policy(experiment, store)
    run_rollouts(experiment, store, 0)
    run_rewards(experiment, store, 0)
    for table in ("prompts", "rollouts"):
        _log(store, table)
    return store


def _log(store: Store, table: str) -> None:
    dataset = f"logged/{LOGGED}"
    source = store.partition("small", table, 0)
    with store.partition(dataset, table, 0).writer("copied", {}) as writer:
        for index, rows in source.iter_shards():
            if table == "rollouts":
                keys = zip(rows["prompt_id"].to_pylist(), rows["sample_index"].to_pylist(), strict=True)
                ids = [trajectory_id(dataset, 0, prompt, sample) for prompt, sample in keys]
                rows = rows.set_column(0, "trajectory_id", pa.array(ids))
                nothing = pa.nulls(rows.num_rows, pa.list_(pa.float32()))
                rows = rows.set_column(rows.schema.get_field_index("behavior_logprobs"), "behavior_logprobs", nothing)
            writer.write(index, rows)
        writer.commit(len(source.manifest().shards))
