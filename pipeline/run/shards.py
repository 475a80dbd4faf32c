"""The work of a stage, cut into shards: made one after another on this machine, or by the workers of a Ray cluster."""

from collections.abc import Callable
from typing import Protocol

import pyarrow as pa

from pipeline.config import Experiment
from pipeline.store import Store

Advance = Callable[[int], None]
"""Called with the number of rows that are ready since the last call, by work that makes them one after another."""


class ShardWork(Protocol):
    """Makes the rows of a shard; the same shard gives the same rows on every machine of a kind.

    It is built where it runs: it loads a model, or starts an engine or grading workers there. It serves shard after
    shard and is closed at the end.
    """

    def make(self, index: int, advance: Advance) -> pa.Table:
        """Rows of shard `index`."""
        ...

    def close(self) -> None:
        """Give memory and processes back."""
        ...


def on_cluster(experiment: Experiment, stage: str) -> bool:
    """Whether the experiment wants the shards of this stage made by a Ray cluster."""
    return experiment.ray is not None and stage in experiment.ray.stages


def root_for_workers(store: Store) -> str:
    """The store's root as a worker in another folder or on another machine has to name it."""
    return store.base if store.is_local else store.root
