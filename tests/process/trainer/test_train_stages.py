"""The real stages of a generation, from the base model to a trained policy, for every objective of the YAML."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Experiment, build_experiment
from pipeline.config.training import OBJECTIVE_NEEDS
from pipeline.errors import StoreError
from pipeline.policies.refs import trained_policy_folder
from pipeline.reference import run_ref_logprobs
from pipeline.rewards.stage import run_rewards
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store, open_store
from tests.support.base_stores import NewStore, copies
from trainer.job import METRICS_FILE, read_metrics
from trainer.stages.base_policy import run_base_policy
from trainer.stages.train import run_train

TREE: dict[str, Any] = {
    "name": "words",
    "seed": 4,
    "generations": 1,
    "policy": {
        "base": "builtin:tiny-arith",
        "dtype": "float32",
        "warm_start": {"logged": "words_behaviour", "trajectories": 512, "steps": 12, "batch": 64},
    },
    "prompts": {"source": "arithmetic", "template": "raw", "per_generation": 16},
    "rollouts": {"engine": "transformers", "n": 3, "max_tokens": 5, "prompts_per_shard": 8, "batch_size": 64},
    # Responses are not right yet, but they differ in length, and so in reward.
    "rewards": {"components": {"length": 1.0, "length_free_tokens": 1, "length_max_tokens": 5}},
    "training": {"beta": 0.1, "learning_rate": 3e-4, "prompt_batch": 8, "updates_per_generation": 2},
}


def experiment_with(**training: Any) -> Experiment:
    return build_experiment(TREE | {"training": TREE["training"] | training}, "test")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with policy[0] and its labelled rollouts."""
    root = tmp_path_factory.mktemp("labelled")
    experiment, store = experiment_with(), open_store(str(root))
    run_base_policy(experiment, store)
    run_rollouts(experiment, store, 0)
    run_rewards(experiment, store, 0)
    run_ref_logprobs(experiment, store, 0)
    return root


@pytest.fixture
def new_store(labelled: Path, tmp_path: Path) -> NewStore:
    """Copies of that store."""
    return copies(labelled, tmp_path)


def metrics_of(store: Store) -> list[dict[str, Any]]:
    return read_metrics(trained_policy_folder(store, "words", 0) / METRICS_FILE)


@pytest.mark.parametrize("objective", sorted(OBJECTIVE_NEEDS))
def test_one_word_of_the_yaml_changes_the_method(new_store: NewStore, objective: str) -> None:
    store = new_store("store")
    report = run_train(experiment_with(objective=objective), store, 0)
    rows = metrics_of(store)
    assert report.rows == 48
    assert [row["update"] for row in rows] == [1, 2]
    for row in rows:
        assert np.isfinite([row["loss"], row["grad_norm"]]).all()
        assert row["grad_norm"] > 0
    start, trained = (
        json.loads((Path(f) / "policy.json").read_text())["policy_id"]
        for f in (
            Path(store.base) / "words/base_policy/warm_started",
            trained_policy_folder(store, "words", 0),
        )
    )
    assert start != trained


def test_two_processes_train_the_stage_alike(new_store: NewStore) -> None:
    one, two = new_store("one"), new_store("two")
    run_train(experiment_with(), one, 0)
    run_train(experiment_with(processes=2, micro_batch_tokens=256), two, 0)
    for name in ("loss", "residual_mean", "residual_p95"):
        assert [r[name] for r in metrics_of(two)] == pytest.approx([r[name] for r in metrics_of(one)], rel=1e-5)


def test_the_reference_is_scored_at_the_training_temperature(new_store: NewStore) -> None:
    store, warm = new_store("store"), experiment_with(temperature=0.7)
    with pytest.raises(StoreError, match="was scored by reference"):
        run_train(warm, store, 0)
    run_ref_logprobs(warm, store, 0, replace=True)
    run_train(warm, store, 0)
    assert abs(metrics_of(store)[0]["logratio"]) < 1e-4
