"""A very small experiment sampled by vLLM, and readers of what it stored."""

from pathlib import Path
from typing import Any

from pipeline.config import Experiment
from pipeline.store import Store

# Random weights: every token is about as likely, so responses end in both ways.
TREE: dict[str, Any] = {
    "name": "engines",
    "seed": 5,
    "generations": 2,
    "policy": {"base": "builtin:tiny-arith", "dtype": "float32"},
    "prompts": {"source": "arithmetic", "template": "raw", "per_generation": 24},
    "rollouts": {"engine": "vllm", "n": 2, "max_tokens": 6, "prompts_per_shard": 8, "cpu_kv_cache_gb": 0.25},
    "training": {"prompt_batch": 8, "updates_per_generation": 2},
}


def with_rollouts(experiment: Experiment, **changes: Any) -> Experiment:
    assert experiment.rollouts is not None
    rollouts = type(experiment.rollouts).model_validate(experiment.rollouts.model_dump() | changes)
    return experiment.model_copy(update={"rollouts": rollouts})


def rows(store: Store, table: str = "rollouts") -> list[dict[str, Any]]:
    return [row for _, shard in store.partition("engines", table, 0).iter_shards() for row in shard.to_pylist()]


def shards(store: Store, generation: int = 0) -> dict[str, bytes]:
    folder = Path(store.partition("engines", "rollouts", generation).path)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.parquet"))}
