"""Working on the shards of a stage: one after another here, or by workers of a Ray cluster.

A stage gives a `ShardWork`: what makes the rows of one shard. It is built where it runs (it loads a model, starts an
engine or grading workers there), serves shard after shard, and is closed at the end. The stage's own process commits
every shard through the store, whoever made it, so a cluster changes nothing about resuming, checksums or manifests.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Protocol

import pyarrow as pa

from pipeline.config import Experiment
from pipeline.config.ray import RayStage
from pipeline.errors import TbrmError
from pipeline.store import Store


class ShardWork(Protocol):
    """Makes the rows of a shard; the same shard gives the same rows on every machine of a kind."""

    def make(self, index: int) -> pa.Table:
        """Rows of shard `index`."""
        ...

    def close(self) -> None:
        """Give memory and processes back."""
        ...


def on_cluster(experiment: Experiment, stage: RayStage) -> bool:
    """Whether the experiment wants the shards of this stage worked on by a Ray cluster."""
    return experiment.ray is not None and stage in experiment.ray.stages


def work_through(
    experiment: Experiment, stage: RayStage, build: Callable[[], ShardWork], shards: Iterable[int]
) -> Generator[tuple[int, pa.Table]]:
    """(index, rows) of each shard as it is finished; in order without a cluster, in any order with one.

    Nothing is built when there is no shard to make. Raises TbrmError when the cluster cannot be had or loses a shard
    more often than `ray.attempts` allows; errors of the work itself come through as they are.
    """
    todo = list(shards)
    if not todo:
        return
    if experiment.ray is not None and on_cluster(experiment, stage):
        try:
            from pipeline.run.ray import work_on_cluster
        except ImportError as error:
            raise TbrmError(f"`ray:` needs the extra `ray` ({error}): pip install 'tbrm[ray]'") from error
        gpus = 0.0 if stage == "rewards" else experiment.ray.gpus
        yield from work_on_cluster(experiment.ray, gpus, build, todo)
        return
    with closing(build()) as work:
        for index in todo:
            yield index, work.make(index)


def root_for_workers(store: Store) -> str:
    """The store's root as a worker in another folder or on another machine has to name it."""
    return store.base if store.is_local else store.root
