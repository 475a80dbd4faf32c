"""Stores that hold policy[0] of a very small experiment."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from engines_store import TREE

from pipeline.config import Experiment, build_experiment
from pipeline.store import Store, open_store
from trainer.base_policy import run_base_policy

NewStore = Callable[[str], Store]


@pytest.fixture(scope="session")
def sampled() -> Experiment:
    return build_experiment(TREE, "test")


@pytest.fixture(scope="session")
def _base(tmp_path_factory: pytest.TempPathFactory, sampled: Experiment) -> Path:
    root = tmp_path_factory.mktemp("base")
    run_base_policy(sampled, open_store(str(root)))
    return root


@pytest.fixture
def new_store(_base: Path, tmp_path: Path) -> NewStore:
    """Makes stores that hold policy[0] and nothing sampled from it."""

    def make(name: str) -> Store:
        return open_store(str(shutil.copytree(_base, tmp_path / name)))

    return make
