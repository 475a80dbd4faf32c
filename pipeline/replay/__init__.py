"""The replay mix of a generation: from configuration to exactly which shards and rows train the next policy."""

from itertools import pairwise

import numpy as np

from pipeline.config import Experiment
from pipeline.errors import TbrmError
from pipeline.replay.index import Index, index_source
from pipeline.replay.mix import Mix, Part, SourceSummary, partition_of
from pipeline.replay.partitions import Source, find_sources
from pipeline.replay.select import select
from pipeline.store import Store, seed_of

__all__ = ["Mix", "Part", "Source", "SourceSummary", "partition_of", "resolve_mix"]


def resolve_mix(store: Store, experiment: Experiment, generation: int) -> Mix:
    """Which stored trajectories train policy[`generation`] into policy[`generation` + 1].

    The answer depends on the store's content, `experiment.replay` and the seed alone. Reads one shard at a time and
    keeps about 20 bytes a trajectory. Raises StoreError naming the command that makes a missing partition, TbrmError
    when the filters leave nothing.
    """
    replay = experiment.replay
    sources = find_sources(store, experiment, generation)
    indexes = [index_source(source, replay) for source in sources]
    select(indexes, replay, seed_of(experiment.seed, "replay", generation))
    mix = Mix(
        parts=tuple(part for index in indexes for part in _parts(index)),
        sources=tuple(_summary(index) for index in indexes),
        parents={p.name: p.manifest().hash for source in sources for p in source.partitions},
    )
    if mix.rows == 0:
        found = "; ".join(
            f"{s.dataset} generation {s.generation}: {s.available} trajectories, left out {dict(s.dropped)}"
            for s in mix.sources
        )
        where = f"{experiment.name} generation {generation}"
        raise TbrmError(f"the replay mix of {where} is empty ({found}): loosen `replay.filters`")
    return mix


def _parts(index: Index) -> list[Part]:
    source, starts = index.source, np.cumsum([0, *index.shard_rows])
    found: list[Part] = []
    for shard, (start, stop) in enumerate(pairwise(starts)):
        rows = np.flatnonzero(index.kept[start:stop]).astype(np.int32)
        if len(rows):
            tables = (source.rewards.table, source.ref_logprobs.table if source.ref_logprobs else None)
            place = (source.rollouts.dataset, source.rollouts.generation)
            found.append(Part(*place, shard, rows, source.name, source.lag, *tables))
    return found


def _summary(index: Index) -> SourceSummary:
    source = index.source
    place = (source.rollouts.dataset, source.rollouts.generation)
    counts = (len(index.kept), int(index.kept.sum()))
    return SourceSummary(source.name, *place, source.lag, *counts, dict(index.dropped))
