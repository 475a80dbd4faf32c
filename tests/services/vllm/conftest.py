"""Stores that hold policy[0] of a very small experiment."""

from pathlib import Path

import pytest

from pipeline.config import Experiment, build_experiment
from tests.support.base_stores import NewStore, copies, with_base_policy
from tests.support.engines_store import TREE


@pytest.fixture(scope="session")
def sampled() -> Experiment:
    return build_experiment(TREE, "test")


@pytest.fixture(scope="session")
def _base(tmp_path_factory: pytest.TempPathFactory, sampled: Experiment) -> Path:
    return with_base_policy(tmp_path_factory.mktemp("base"), sampled)


@pytest.fixture
def new_store(_base: Path, tmp_path: Path) -> NewStore:
    return copies(_base, tmp_path)
