"""Choosing rows: success rate, duplicates, caps per prompt, proportions. All choices derive from the seed."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.config.replay import ReplayConfig
from pipeline.replay.index import Hashes, Index, Mask
from pipeline.store import seed_of


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
