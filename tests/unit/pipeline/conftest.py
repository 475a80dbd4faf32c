"""A published policy[0] of a very small experiment, made once."""

from pathlib import Path

import pytest

from pipeline.config import Experiment, build_experiment
from tests.support.base_stores import NewStore, copies, with_base_policy

TREE = {
    "name": "small",
    "seed": 5,
    "generations": 2,
    "policy": {
        "base": "builtin:tiny-arith",
        "dtype": "float32",
        "warm_start": {"logged": "small_behaviour", "trajectories": 256, "steps": 4, "batch": 64},
    },
    "prompts": {"source": "arithmetic", "template": "raw", "per_generation": 24},
    "rollouts": {"engine": "transformers", "n": 2, "max_tokens": 6, "prompts_per_shard": 8, "batch_size": 64},
    "training": {"prompt_batch": 8, "updates_per_generation": 2, "learning_rate": 1e-3},
}


@pytest.fixture(scope="session")
def small() -> Experiment:
    return build_experiment(TREE, "test")


@pytest.fixture(scope="session")
def _published(tmp_path_factory: pytest.TempPathFactory, small: Experiment) -> Path:
    return with_base_policy(tmp_path_factory.mktemp("published"), small)


@pytest.fixture
def new_store(_published: Path, tmp_path: Path) -> NewStore:
    return copies(_published, tmp_path)
