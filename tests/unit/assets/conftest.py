"""One generation of a very small experiment, made by its own stages in this process, with what each reported."""

from typing import Any

import pytest

from assets.experiment.stages import loop
from pipeline.config import Experiment
from pipeline.store import Store, open_store
from tests.support.tiny_store import make_experiment

Reports = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    evaluation = {"benchmarks": ["heldout", "heldout_sampled"]}
    protocols = {name: {"max_problems": 8, "max_tokens": 3} for name in evaluation["benchmarks"]}
    components = {"length": 1.0, "length_free_tokens": 1, "length_max_tokens": 4}
    return make_experiment(
        generations=1,
        rewards={"verifier": "plain", "workers": 1, "audit_sample": 4, "components": components},
        evaluation={**evaluation, "protocols": protocols},
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> tuple[Store, Reports]:
    """The store, and the report of each stage by its name."""
    store, reports = open_store(str(tmp_path_factory.mktemp("made"))), Reports()
    for generation, stages in loop(experiment):
        for stage in stages:
            reports[stage.name] = stage.run(experiment, store, generation or 0).to_json()
    return store, reports
