"""What a mix draws from: partitions, and of their rows by success rate, duplicates, caps per prompt and proportions.

All choices derive from the seed. What selection has to know of every trajectory takes some 20 bytes a row, and is read
one shard at a time.
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

from pipeline.config import Experiment
from pipeline.config.replay import Filters, LoggedSource, ReplayConfig
from pipeline.config.training import OBJECTIVE_NEEDS
from pipeline.errors import StoreError
from pipeline.policies.load_save import check_table
from pipeline.policies.refs import published_tokenizer
from pipeline.reference import REFERENCE_PARENT, reference_id, reference_label
from pipeline.run.configurations import owner_of
from pipeline.store import Manifest, Partition, Store, check_aligned, seed_of

GENERATION = "generation"


@dataclass(frozen=True)
class Source:
    """One partition that the mix draws from."""

    name: str
    """`generation`, or the name of the logged data set."""
    rollouts: Partition
    rewards: Partition
    ref_logprobs: Partition | None
    lag: int
    weight: float

    @property
    def partitions(self) -> list[Partition]:
        found = [self.rollouts, self.rewards]
        return [*found, self.ref_logprobs] if self.ref_logprobs else found


def find_sources(store: Store, experiment: Experiment, generation: int) -> list[Source]:
    """Partitions of the mix of `generation`, newest first, then logged ones. All are committed and fit together.

    Raises StoreError naming the command that makes the first missing one.
    """
    replay = experiment.replay
    needs_reference = OBJECTIVE_NEEDS[experiment.training.objective].reference
    reference = reference_id(store, experiment) if needs_reference else None
    own = published_tokenizer(store, experiment.name, generation)
    sources: list[Source] = []
    lags = _lags(experiment, generation)
    decays = [replay.generation_decay ** (lag - lags[0]) for lag in lags]
    for lag, decay in zip(lags, decays, strict=True):
        weight = (replay.generation_weight or 1.0) * decay / sum(decays)
        labels = (_table("rewards", replay.rewards), _table("ref_logprobs", replay.ref_logprobs))
        place = (owner_of(store, experiment.name, generation - lag), generation - lag)
        sources.append(_source(store, experiment, GENERATION, place, labels, reference, lag, weight))
    for logged in replay.logged:
        dataset = f"logged/{logged.name}"
        for number in _partitions(store, logged):
            labels = (_table("rewards", logged.rewards), _logged_reference(store, logged, number, reference))
            place, weight = (dataset, number), logged.weight or 1.0
            sources.append(_source(store, experiment, logged.name, place, labels, reference, 0, weight))
    for source in sources:
        check_table(source.rollouts.manifest(), own, f"policy[{generation}] of {experiment.name}")
    return sources


def _lags(experiment: Experiment, generation: int) -> list[int]:
    """Ages of the experiment's own generations in the mix, the newest first."""
    replay = experiment.replay
    if experiment.rollouts is None or replay.window == 0:
        return []
    newest = min(replay.lag, generation)
    return [lag for lag in range(newest, newest + replay.window) if lag <= generation]


def _table(table: str, label: str | None) -> str:
    return f"{table}@{label}" if label else table


def _partitions(store: Store, logged: LoggedSource) -> list[int]:
    found = store.generations(f"logged/{logged.name}", "rollouts")
    wanted = found if logged.generation is None else [logged.generation]
    if not found or wanted[0] not in found:
        known = ", ".join(d.removeprefix("logged/") for d in store.datasets() if d.startswith("logged/")) or "none"
        which = f"logged data set {logged.name!r}" + ("" if not found else f" generation {logged.generation}")
        raise StoreError(
            f"replay.logged: there is no {which} in {store.root} (known: {known}); "
            f"`tbrm import --name {logged.name} FILES` makes it"
        )
    return wanted


def _logged_reference(store: Store, logged: LoggedSource, generation: int, reference: str | None) -> str:
    """The chosen label, else the one made for this reference, else the table without a label."""
    if logged.ref_logprobs or reference is None:
        return _table("ref_logprobs", logged.ref_logprobs)
    labelled = f"ref_logprobs@{reference_label(reference)}"
    plain = store.partition(f"logged/{logged.name}", "ref_logprobs", generation)
    if store.partition(plain.dataset, labelled, generation).is_committed() or not plain.is_committed():
        return labelled
    return "ref_logprobs" if plain.manifest().parents.get(REFERENCE_PARENT) == reference else labelled


def _source(
    store: Store,
    experiment: Experiment,
    name: str,
    place: tuple[str, int],
    labels: tuple[str, str],
    reference: str | None,
    lag: int,
    weight: float,
) -> Source:
    dataset, generation = place
    rollouts = store.partition(dataset, "rollouts", generation)
    sidecars = [store.partition(dataset, label, generation) for label in labels[: 2 if reference else 1]]
    manifests: list[Manifest] = []
    for partition in (rollouts, *sidecars):
        if not partition.is_committed():
            raise StoreError(f"{partition.name} is not there yet: run `{_command(experiment, partition)}` first")
        manifests.append(partition.manifest())
    for partition, manifest in zip(sidecars, manifests[1:], strict=True):
        _check_fits(rollouts, manifests[0], partition, manifest, experiment)
    if reference:
        scored_by = manifests[2].parents.get(REFERENCE_PARENT)
        if scored_by != reference:
            raise StoreError(
                f"{sidecars[1].name} was scored by reference {scored_by}, but {experiment.name} has reference "
                f"{reference}: run `{_command(experiment, sidecars[1])} --replace`, or choose another version"
            )
    return Source(name, rollouts, sidecars[0], sidecars[1] if reference else None, lag, weight)


def _check_fits(
    rollouts: Partition, source: Manifest, sidecar: Partition, manifest: Manifest, experiment: Experiment
) -> None:
    """A sidecar that was made from other rollouts must not be used, even where its rows would line up."""
    made_from = manifest.parents.get(rollouts.name)
    same_rows = [shard.rows for shard in source.shards] == [shard.rows for shard in manifest.shards]
    if made_from != source.hash or not same_rows:
        raise StoreError(
            f"{sidecar.name} was made from other rollouts than {rollouts.name} now holds (manifest "
            f"{made_from or 'unknown'}, now {source.hash}): run `{_command(experiment, sidecar)} --replace`"
        )


def _command(experiment: Experiment, partition: Partition) -> str:
    """The command that writes a partition."""
    table, _, label = partition.table.partition("@")
    logged = partition.dataset.removeprefix("logged/") if partition.dataset.startswith("logged/") else None
    if table == "rollouts" and logged:
        return f"tbrm import --name {logged} FILES"
    owner = experiment.name if logged else partition.dataset
    command = f"tbrm {table.replace('_', '-')} --experiment {owner} --generation {partition.generation}"
    command += f" --logged {logged}" if logged else ""
    return command + (f" --label {label}" if label else "")


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
    weights = [replay.generation_weight, *(source.weight for source in replay.logged)]
    if replay.generation_decay < 1 or any(weight is not None for weight in weights):
        bring_into_proportion(indexes, seed)


def _rng(index: Index, seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(seed_of(seed, purpose, index.source.rollouts.name))
