"""The replay mix of a generation: from configuration to exactly which rows of which shards train the next policy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import Experiment
from pipeline.errors import StoreError, TbrmError
from pipeline.replay.select import Index, find_sources, index_source, select
from pipeline.store import Manifest, Partition, Store, check_aligned, seed_of

ROLLOUT_COLUMNS = (
    *("trajectory_id", "prompt_id", "prompt_token_ids", "response_token_ids", "response_mask", "finish_reason"),
    *("behavior_logprobs", "sampling"),
)
REWARD_COLUMNS = ("trajectory_id", "reward", "token_rewards")
REFERENCE_COLUMNS = ("trajectory_id", "ref_token_logprobs", "ref_value_first")
_NULLS = {"ref_token_logprobs": pa.list_(pa.float32()), "ref_value_first": pa.float64()}


@dataclass(frozen=True, eq=False)
class Part:
    """Chosen rows of one rollout shard, and the sidecar tables that label them."""

    dataset: str
    generation: int
    shard: int
    rows: npt.NDArray[np.int32]
    """Ascending row numbers within the shard."""
    source: str
    """`generation`, or the name of the logged data set."""
    lag: int
    """Generations between sampling and training; 0 for logged data."""
    rewards: str
    """Table of the rewards: `rewards` or `rewards@<version>`."""
    ref_logprobs: str | None
    """Table of the reference log-probs; None where the objective needs none."""


@dataclass(frozen=True)
class SourceSummary:
    """What one partition gave to the mix, and why the rest of it was left out."""

    source: str
    dataset: str
    generation: int
    lag: int
    available: int
    kept: int
    dropped: Mapping[str, int]
    """Reason -> trajectories: finish_reason, length, status, success_rate, duplicate, max_per_prompt, min_per_prompt,
    weight."""


@dataclass(frozen=True, eq=False)
class Mix:
    """Parts in the order in which they are read: newest generation first, then the logged data sets of the YAML."""

    parts: tuple[Part, ...]
    sources: tuple[SourceSummary, ...]
    parents: Mapping[str, str]
    """Partition name -> manifest hash, of every rollouts, rewards and ref_logprobs partition read."""

    @property
    def rows(self) -> int:
        return sum(len(part.rows) for part in self.parts)

    def tables(self, store: Store) -> Iterator[tuple[Part, pa.Table]]:
        """The chosen rows with rewards and reference log-probs beside them, one shard in memory at a time.

        Columns: ROLLOUT_COLUMNS, reward, token_rewards, ref_token_logprobs, ref_value_first. Raises StoreError for a
        damaged or unaligned shard, and when a partition is no longer the one that this mix was resolved from.
        """
        manifests = {name: self._same_manifest(store, name) for name in self.parents}
        for part in self.parts:
            yield part, _read(store, part, manifests)

    def to_json(self) -> dict[str, Any]:
        """For the training manifest. `rows` of a part are half-open ranges [start, stop) of row numbers."""
        return {
            "rows": self.rows,
            "sources": [{**vars(s), "dropped": dict(s.dropped)} for s in self.sources],
            "parents": dict(self.parents),
            "parts": [{**vars(part), "rows": to_ranges(part.rows)} for part in self.parts],
        }

    def _same_manifest(self, store: Store, name: str) -> Manifest:
        manifest = partition_of(store, name).manifest()
        if manifest.hash != self.parents[name]:
            raise StoreError(f"{name} was replaced after the mix was resolved; run the stage again")
        return manifest


def partition_of(store: Store, name: str) -> Partition:
    """The partition that a manifest names as a parent: `<dataset>/<table>/generation=<gggg>`."""
    dataset, table, generation = name.rsplit("/", 2)
    return store.partition(dataset, table, int(generation.removeprefix("generation=")))


def to_ranges(rows: npt.NDArray[np.int32]) -> list[list[int]]:
    """Ascending row numbers as half-open ranges: [0, 1, 2, 7] -> [[0, 3], [7, 8]]."""
    if len(rows) == 0:
        return []
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = rows[np.concatenate([[0], breaks])]
    stops = rows[np.concatenate([breaks - 1, [len(rows) - 1]])] + 1
    return [[int(a), int(b)] for a, b in zip(starts, stops, strict=True)]


def _read(store: Store, part: Part, manifests: Mapping[str, Manifest]) -> pa.Table:
    rollouts = store.partition(part.dataset, "rollouts", part.generation)
    table = rollouts.read_shard(part.shard, ROLLOUT_COLUMNS, manifests[rollouts.name])
    for name, columns in ((part.rewards, REWARD_COLUMNS), (part.ref_logprobs, REFERENCE_COLUMNS)):
        if name is None:
            for column, kind in _NULLS.items():
                table = table.append_column(column, pa.nulls(table.num_rows, kind))
            continue
        sidecar = store.partition(part.dataset, name, part.generation)
        rows = sidecar.read_shard(part.shard, columns, manifests[sidecar.name])
        check_aligned(table, rows, f"{sidecar.name} shard {part.shard}")
        for column in columns[1:]:
            table = table.append_column(column, rows.column(column))
    return table if len(part.rows) == table.num_rows else table.take(part.rows)


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
