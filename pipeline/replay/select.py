"""Choosing rows: success rate, duplicates, caps per prompt, proportions. All choices derive from the seed.

What selection has to know of every trajectory takes some 20 bytes a row, and is read one shard at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import xxhash

from pipeline.config.replay import Filters, ReplayConfig
from pipeline.replay.partitions import Source
from pipeline.store import check_aligned, seed_of

pc: Any = pyarrow.compute  # its functions are made at import time, unseen by type checkers
Mask = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]


@dataclass(eq=False)
class Index:
    """Rows of one partition, in order of shards. `kept` shrinks as selection goes on; `dropped` counts why."""

    source: Source
    shard_rows: list[int]
    prompt: Hashes
    """Hash of the prompt_id."""
    content: Hashes | None
    """Hash of prompt and response tokens, where duplicates are looked for."""
    success: Mask | None
    """Reward at least `success_reward`, where the success rate is asked for."""
    kept: Mask
    dropped: dict[str, int]

    def keep(self, mask: Mask, reason: str) -> None:
        """Keep rows of `mask` only; those that go are counted under `reason`."""
        gone = int((self.kept & ~mask).sum())
        if gone:
            self.dropped[reason] = self.dropped.get(reason, 0) + gone
            self.kept = self.kept & mask


def index_source(source: Source, replay: ReplayConfig) -> Index:
    """Read the columns that the configuration asks about, check the rewards' alignment, apply the filters of a row."""
    filters = replay.filters
    manifest = source.rollouts.manifest()
    rewards_manifest = source.rewards.manifest()
    columns = ["trajectory_id", "prompt_id", "finish_reason", "prompt_token_ids", "response_token_ids"]
    wants_rewards = filters.statuses is not None or filters.success_rate is not None
    prompts: list[Hashes] = []
    contents: list[Hashes] = []
    successes: list[Mask] = []
    masks: dict[str, list[Mask]] = {"length": [], "finish_reason": [], "status": []}
    for shard in range(len(manifest.shards)):
        rows = source.rollouts.read_shard(shard, columns, manifest)
        prompts.append(hash_strings(rows.column("prompt_id")))
        if replay.dedup:
            contents.append(hash_contents(rows))
        masks["length"].append(_length_mask(rows, filters))
        masks["finish_reason"].append(_is_in(rows.column("finish_reason"), filters.finish_reasons))
        if not wants_rewards:
            continue
        rewards = source.rewards.read_shard(shard, ["trajectory_id", "reward", "status"], rewards_manifest)
        check_aligned(rows, rewards, f"{source.rewards.name} shard {shard}")
        masks["status"].append(_is_in(rewards.column("status"), filters.statuses))
        successes.append(rewards.column("reward").to_numpy() >= filters.success_reward)
    prompt = _joined(prompts, np.uint64)
    index = Index(
        source=source,
        shard_rows=[info.rows for info in manifest.shards],
        prompt=prompt,
        content=_joined(contents, np.uint64) if replay.dedup else None,
        success=_joined(successes, np.bool_) if wants_rewards else None,
        kept=np.ones(len(prompt), dtype=bool),
        dropped={},
    )
    for reason, parts in masks.items():
        if parts:
            index.keep(_joined(parts, np.bool_), reason)
    return index


def hash_strings(column: "pa.ChunkedArray[Any]") -> Hashes:
    """XXH3-64 of every string; equal strings are hashed once."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):  # a table without rows has no chunk to combine
        return np.empty(0, dtype=np.uint64)
    dictionary: list[Any] = encoded.dictionary.to_pylist()
    words = [xxhash.xxh3_64_intdigest(word.encode()) for word in dictionary]
    return np.asarray(words, dtype=np.uint64)[encoded.indices.to_numpy()]


def hash_contents(rows: pa.Table) -> Hashes:
    """XXH3-64 over prompt and response token ids of every row."""
    prompts, responses = _slices(rows.column("prompt_token_ids")), _slices(rows.column("response_token_ids"))
    hashes = [
        xxhash.xxh3_64_intdigest(response, xxhash.xxh3_64_intdigest(prompt))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return np.asarray(hashes, dtype=np.uint64)


def _slices(column: "pa.ChunkedArray[Any]") -> list[memoryview]:
    """The bytes of each list of tokens, without copying."""
    found: list[memoryview] = []
    chunks: list[Any] = column.chunks
    for chunk in chunks:
        values = memoryview(np.ascontiguousarray(chunk.values.to_numpy()).view(np.uint8).data)
        offsets = chunk.offsets.to_numpy() * 4
        found += [values[a:b] for a, b in pairwise(offsets)]
    return found


def _length_mask(rows: pa.Table, filters: Filters) -> Mask:
    response = pc.list_value_length(rows.column("response_token_ids")).to_numpy()
    mask = response >= filters.min_response_tokens
    if filters.max_response_tokens is not None:
        mask &= response <= filters.max_response_tokens
    if filters.max_prompt_tokens is not None:
        mask &= pc.list_value_length(rows.column("prompt_token_ids")).to_numpy() <= filters.max_prompt_tokens
    return mask


def _is_in(column: "pa.ChunkedArray[Any]", wanted: tuple[str, ...] | None) -> Mask:
    if wanted is None:
        return np.ones(len(column), dtype=bool)
    return pc.is_in(column, pa.array(wanted, pa.string())).to_numpy()


def _joined(parts: list[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


def keep_success_rate(index: Index, bounds: tuple[float, float]) -> None:
    """Keep prompts whose share of successes over all their rows lies within `bounds`."""
    assert index.success is not None
    _, which, counts = np.unique(index.prompt, return_inverse=True, return_counts=True)
    rate = np.bincount(which, weights=index.success, minlength=len(counts)) / counts
    index.keep(((rate >= bounds[0]) & (rate <= bounds[1]))[which], "success_rate")


def drop_duplicates(index: Index, seen: Hashes) -> Hashes:
    """Keep the first of equal trajectories that is not in `seen` yet; returns `seen` (sorted) with them added."""
    assert index.content is not None
    rows = np.flatnonzero(index.kept)
    values, first = np.unique(index.content[rows], return_index=True)
    fresh = ~np.isin(values, seen, assume_unique=True)
    mask = np.zeros(len(index.kept), dtype=bool)
    mask[rows[first[fresh]]] = True
    index.keep(mask, "duplicate")
    return np.union1d(seen, values)


def cap_per_prompt(index: Index, limit: int, seed: int) -> None:
    """Keep at most `limit` rows of each prompt, drawn at random."""
    rows = np.flatnonzero(index.kept)
    priority = _rng(index, seed, "max_per_prompt").random(len(index.kept))[rows]
    order = np.lexsort((priority, index.prompt[rows]))
    sorted_prompts = index.prompt[rows][order]
    rank = np.arange(len(rows)) - np.searchsorted(sorted_prompts, sorted_prompts)  # place within its prompt
    mask = np.zeros(len(index.kept), dtype=bool)
    mask[rows[order[rank < limit]]] = True
    index.keep(mask, "max_per_prompt")


def drop_small_groups(index: Index, least: int) -> None:
    """Keep the rows of prompts that still have at least `least` of them."""
    rows = np.flatnonzero(index.kept)
    _, which, counts = np.unique(index.prompt[rows], return_inverse=True, return_counts=True)
    mask = np.zeros(len(index.kept), dtype=bool)
    mask[rows[counts[which] >= least]] = True
    index.keep(mask, "min_per_prompt")


def bring_into_proportion(indexes: Sequence[Index], seed: int) -> None:
    """Shrink every source to the largest size at which all stand in the proportion of their weights."""
    by_name: dict[tuple[str, int], int] = {}
    for index in indexes:  # partitions of one logged data set share its weight by their size
        by_name[_group(index)] = by_name.get(_group(index), 0) + int(index.kept.sum())
    filled = [index for index in indexes if index.kept.any()]
    if not filled:
        return
    scale = min(by_name[_group(index)] / index.source.weight for index in filled)
    for index in filled:
        count = int(index.kept.sum())
        share = index.source.weight * count / by_name[_group(index)]
        target = min(count, max(1, round(scale * share)))
        index.keep(_whole_prompts(index, target, seed), "weight")


def _group(index: Index) -> tuple[str, int]:
    return index.source.name, index.source.lag


def _whole_prompts(index: Index, target: int, seed: int) -> Mask:
    """Rows of random prompts, as many as fit into `target` trajectories, at least one prompt."""
    rows = np.flatnonzero(index.kept)
    prompts, which = np.unique(index.prompt[rows], return_inverse=True)
    sizes = np.bincount(which)
    order = _rng(index, seed, "weight").permutation(len(prompts))
    chosen = np.zeros(len(prompts), dtype=bool)
    chosen[order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), target, side="right")))]] = True
    mask: npt.NDArray[np.bool_] = np.zeros(len(index.kept), dtype=bool)
    mask[rows[chosen[which]]] = True
    return mask


def select(indexes: Sequence[Index], replay: ReplayConfig, seed: int) -> None:
    """Apply everything that looks at more than one row, in the order of the fields' documentation."""
    seen: Hashes = np.empty(0, dtype=np.uint64)
    for index in indexes:
        if replay.filters.success_rate is not None:
            keep_success_rate(index, replay.filters.success_rate)
        if replay.dedup:
            seen = drop_duplicates(index, seen)
        if replay.max_per_prompt is not None:
            cap_per_prompt(index, replay.max_per_prompt, seed)
        if replay.min_per_prompt > 1:
            drop_small_groups(index, replay.min_per_prompt)
    if replay.weighted:
        bring_into_proportion(indexes, seed)


def _rng(index: Index, seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(seed_of(seed, purpose, index.source.rollouts.name))
