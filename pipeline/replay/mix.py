"""The resolved replay mix: exactly which rows of which shards train a policy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.store import Manifest, Partition, Store, check_aligned

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
