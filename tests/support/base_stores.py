"""Stores that hold policy[0] of an experiment, made once and copied for each test that wants one of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.config import Experiment
from pipeline.store import Store, open_store
from trainer.stages.base_policy import run_base_policy

NewStore = Callable[[str], Store]


def with_base_policy(root: Path, experiment: Experiment) -> Path:
    """`root`, a store with policy[0] of `experiment` and nothing sampled from it."""
    run_base_policy(experiment, open_store(str(root)))
    return root


def copies(base: Path, folder: Path) -> NewStore:
    """Makes copies of the store `base` in `folder`, by name."""
    return lambda name: open_store(str(shutil.copytree(base, folder / name)))
