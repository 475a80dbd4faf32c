"""The work of a stage, cut into shards: made one after another on this machine, or by the workers of a Ray cluster."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pyarrow as pa

from pipeline.config import Experiment
from pipeline.store import Store

Advance = Callable[[int], None]
"""Called with the number of rows that are ready since the last call, by work that makes them one after another."""
Make = Callable[[int, Advance], pa.Table]
"""The function of a shard: its rows, by its number. The same shard gives the same rows on every machine of a kind."""
Start = Callable[[], AbstractContextManager[Make]]
"""Starts what makes shards, where it runs: loads a model, or starts an engine or grading workers. Leaving the context
gives memory and processes back."""


def on_cluster(experiment: Experiment, stage: str) -> bool:
    """Whether the experiment wants the shards of this stage made by a Ray cluster."""
    return experiment.ray is not None and stage in experiment.ray.stages


def root_for_workers(store: Store) -> str:
    """The store's root as a worker in another folder or on another machine has to name it."""
    return store.base if store.is_local else store.root
