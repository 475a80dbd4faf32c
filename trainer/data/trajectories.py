"""The trajectories of one training stage: copied once from the store's shards into a memory-mapped file, then by row.

Copying streams one shard at a time, so memory is bounded by a shard; training reads rows in random order from the file,
and every process of the machine shares its pages. Each row was checked against its sidecars when it was copied.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.policies.load_save import check_ids
from pipeline.replay.mix import ROLLOUT_COLUMNS, Mix
from pipeline.replay.select import hash_strings
from pipeline.run.configurations import read_configuration
from pipeline.scoring.batch import GroupStats, Trajectory
from pipeline.store import Partition, Store
from trainer.job import TRAJECTORIES


def mix_tables(store: Store, mix: Mix, vocabulary: int) -> Iterator[pa.Table]:
    """The chosen rows of every part of the mix, to train a policy that knows `vocabulary` token ids.

    Raises StoreError for damaged or unaligned shards, and for a token id beyond the vocabulary.
    """
    for part, table in mix.tables(store):
        rollouts = store.partition(part.dataset, "rollouts", part.generation)
        check_ids(table, vocabulary, rollouts.shard_path(part.shard), "the policy", part.rows.tolist())
        yield _labelled(table, part.source, part.lag, f"{part.dataset}/{part.generation}")


def check_all_tokens_sampled(store: Store, mix: Mix, training: TrainingConfig) -> None:
    """Raise TbrmError where an objective with ratios would train on trajectories that were sampled with `top_k`.

    Rows do not say that, so it is read from the configuration that made the partition.
    """
    if not training.needs.behavior_logprobs:
        return
    for dataset, generation in dict.fromkeys((part.dataset, part.generation) for part in mix.parts):
        rollouts = store.partition(dataset, "rollouts", generation)
        if (made_by := rollouts.manifest().configuration) is None:
            continue
        if top_k := (read_configuration(store, made_by)["rollouts"] or {}).get("top_k", 0):
            raise TbrmError(
                f"{rollouts.name} was sampled with top_k {top_k}, and objective {training.objective} divides by "
                "behaviour log-probs, which are those of all tokens: sample with `rollouts.top_k: 0`, or train with an "
                "objective that needs none of them (tbrm)"
            )


def logged_tables(partitions: Sequence[Partition], vocabulary: int) -> Iterator[pa.Table]:
    """All rollouts of a logged data set, for imitation: without rewards and reference log-probs.

    Raises StoreError for a token id beyond the `vocabulary` of the base model.
    """
    for partition in partitions:
        for shard, table in partition.iter_shards(ROLLOUT_COLUMNS):
            check_ids(table, vocabulary, partition.shard_path(shard), "the base model")
            rows = table.append_column("reward", pa.array([0.0] * table.num_rows))
            for column in ("token_rewards", "ref_token_logprobs", "ref_value_first"):
                rows = rows.append_column(column, pa.nulls(table.num_rows, SCHEMA.field(column).type))
            yield _labelled(rows, partition.dataset.removeprefix("logged/"), 0, partition.name)


def _labelled(table: pa.Table, source: str, lag: int, place: str) -> pa.Table:
    group = [f"{place}/{prompt_id}" for prompt_id in table.column("prompt_id").to_pylist()]
    rows = table.num_rows
    return (
        table.append_column("source", pa.array([source] * rows))
        .append_column("lag", pa.array([lag] * rows, pa.int32()))
        .append_column("group", pa.array(group))
    )


_ROWS_PER_BATCH = 1_024
_TOKENS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
Rows = npt.NDArray[np.int64]
pc: Any = pyarrow.compute  # its functions are made at import time, unseen by type checkers
SCHEMA = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt_token_ids", _TOKENS),
        ("response_token_ids", _TOKENS),
        ("response_mask", pa.list_(pa.bool_())),
        ("finish_reason", pa.string()),
        ("behavior_logprobs", _FLOATS),
        ("reward", pa.float64()),
        ("token_rewards", _FLOATS),
        ("ref_token_logprobs", _FLOATS),
        ("ref_value_first", pa.float64()),
        ("source", pa.string()),
        ("lag", pa.int32()),
        ("group", pa.string()),
    ]
)
"""`group` names the prompt within its data set and generation: rows that share it answer the same prompt."""


_STORED = SCHEMA.append(pa.field("trained", pa.bool_()))
"""Rows that are not trained are kept for the statistics of their prompt's rewards."""


def write_trajectories(tables: Iterable[pa.Table], training: TrainingConfig, folder: Path) -> int:
    """Copy the mix into `folder`; returns the number of rows that are trained.

    Rows without any response token are not trained, nor are truncated ones with `drop_truncated`. Columns are those of
    SCHEMA, and the store's `sampling` where it is known. Raises TbrmError naming the first trajectory that lacks what
    the objective needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temp, rows = folder / f"_tmp.{TRAJECTORIES}", 0
    with pa.OSFile(str(temp), "wb") as sink, pa.ipc.new_file(sink, _STORED) as writer:
        for table in tables:
            trained = _trained(table, training)
            kept = table if pc.all(trained).as_py() else table.filter(trained)  # a filter copies every token
            check_needs(kept, training)
            stored = table.select(SCHEMA.names).cast(SCHEMA).append_column(_STORED.field("trained"), trained)
            writer.write_table(stored, max_chunksize=_ROWS_PER_BATCH)
            rows += kept.num_rows
    temp.replace(folder / TRAJECTORIES)
    if rows == 0:
        raise TbrmError(
            "the mix holds no trajectory to train on: check `replay.window`, `replay.logged` and the filters"
        )
    if training.needs.groups:
        _check_groups(TrajectoryTable(folder, training.beta), training)
    return rows


def check_needs(table: pa.Table, training: TrainingConfig) -> None:
    """Raise TbrmError when a row lacks the reference or behaviour log-probs that the objective needs.

    Behaviour log-probs are those of the model at temperature 1. Where the sampler used another temperature or top_p,
    they are not the probabilities that it sampled with.
    """
    needs = training.needs
    wanted = {
        "ref_token_logprobs": (needs.reference, "run `tbrm ref-logprobs` for this data set"),
        "behavior_logprobs": (
            needs.behavior_logprobs,
            "they are only there when our engines sampled it; tbrm needs none of them",
        ),
    }
    if needs.behavior_logprobs and "sampling" in table.column_names:
        _check_sampling(table, training)
    lengths = pc.list_value_length(table.column("response_token_ids"))
    for column, (needed, remedy) in wanted.items():
        there = pc.list_value_length(table.column(column))
        bad = pc.fill_null(pc.not_equal(there, lengths), needed)
        row = pc.index(bad, True).as_py()
        if row >= 0:
            where = f"trajectory {table.column('trajectory_id')[row]} of {table.column('source')[row]}"
            found = "no" if there[row].as_py() is None else str(there[row])
            raise TbrmError(
                f"{where} has {found} {column} for {lengths[row]} response tokens, which objective "
                f"{training.objective} needs: {remedy}"
            )


def _check_sampling(table: pa.Table, training: TrainingConfig) -> None:
    for name in ("temperature", "top_p"):
        differs = pc.fill_null(pc.not_equal(pc.struct_field(table.column("sampling"), name), 1.0), False)
        if (row := int(pc.index(differs, True).as_py())) >= 0:
            where = f"trajectory {table.column('trajectory_id')[row]} of {table.column('source')[row]}"
            value = float(pc.struct_field(table.column("sampling"), name)[row].as_py())
            raise TbrmError(
                f"{where} was sampled with {name} {value:g}, and objective {training.objective} divides by behaviour "
                f"log-probs, which are those of {name} 1: sample with `rollouts.{name}: 1`, or train with an objective "
                "that needs none of them (tbrm)"
            )


def _check_groups(table: "TrajectoryTable", training: TrainingConfig) -> None:
    """Raise TbrmError where an objective that compares responses to one prompt would find a single one."""
    lone = np.flatnonzero(table.groups.sizes < 2)
    if len(lone):
        first = table.read(table.groups[int(lone[0])].tolist())[0]
        raise TbrmError(
            f"trajectory {first.trajectory_id} of {first.source} is the only response to its prompt ({len(lone)} of "
            f"{len(table.groups)} prompts are like that), and objective {training.objective} compares responses to one "
            "prompt: leave such prompts out with `replay.min_per_prompt: 2`, or raise `rollouts.n` or "
            "`replay.max_per_prompt`"
        )


def _trained(table: pa.Table, training: TrainingConfig) -> "pa.ChunkedArray[Any]":
    keep = pc.greater(pc.list_value_length(table.column("response_token_ids")), 0)
    if training.drop_truncated:
        keep = pc.and_(keep, pc.not_equal(table.column("finish_reason"), "length"))
    return keep


class Groups(Sequence[Rows]):
    """Rows of each prompt that are trained, prompts in order of appearance. A prompt without any is left out."""

    def __init__(
        self,
        keys: npt.NDArray[np.uint64],
        rewards: npt.NDArray[np.float64],
        beta: float,
        trained: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """`keys` [rows] names the prompt of each row; `rewards` [rows]. The statistics of a prompt are those of all its
        rows, those that are not `trained` [rows] (None: all are) included.
        """
        rows = np.arange(len(keys)) if trained is None else np.flatnonzero(trained)
        names, first, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
        appearance = np.empty(len(first), dtype=np.int64)
        appearance[np.argsort(first)] = np.arange(len(first))
        self.of_row: Rows = np.full(len(keys), -1, dtype=np.int64)
        """Prompt of each row that is trained; -1 of the others."""
        self.of_row[rows] = appearance[inverse]
        self._rows: Rows = rows[np.argsort(appearance[inverse], kind="stable")]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(appearance[inverse]))])
        known = np.isin(keys, names)
        prompt = appearance[np.searchsorted(names, keys[known])]
        order = np.argsort(prompt, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(prompt))])
        self._stats = group_stats(rewards[known][order], starts, beta)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Rows: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rows]: ...
    def __getitem__(self, index: int | slice) -> Rows | list[Rows]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._rows[self._starts[index % len(self)] : self._starts[index % len(self) + 1]]

    @property
    def sizes(self) -> Rows:
        """Rows of each prompt that its statistics are taken over."""
        return self._stats[2]

    def stats(self, index: int) -> GroupStats:
        """Statistics of one prompt's rewards."""
        mean, std, size, soft_value = (column[index] for column in self._stats)
        return GroupStats(float(mean), float(std), int(size), float(soft_value))


def group_stats(
    rewards: npt.NDArray[np.float64], starts: npt.NDArray[np.integer[Any]], beta: float
) -> tuple[npt.NDArray[Any], ...]:
    """Of each prompt's rewards: mean, standard deviation (n - 1), size n, and V̂(x) = log (1/n) Σ exp(r/β).

    Prompt k has `rewards[starts[k]:starts[k + 1]]`; no prompt is without any.
    """
    sizes, begins = np.diff(starts), starts[:-1]
    means = np.add.reduceat(rewards, begins) / sizes
    squares = np.add.reduceat((rewards - np.repeat(means, sizes)) ** 2, begins)
    scaled = rewards / beta
    tops = np.maximum.reduceat(scaled, begins)
    soft_values = tops + np.log(np.add.reduceat(np.exp(scaled - np.repeat(tops, sizes)), begins) / sizes)
    return means, np.sqrt(squares / np.maximum(sizes - 1, 1)), sizes, soft_values


class TrajectoryTable:
    """Rows of the mix as `Trajectory` objects, and the prompts they answer. Opening it reads ids and rewards only."""

    def __init__(self, folder: Path, beta: float) -> None:
        file = pa.ipc.open_file(pa.memory_map(str(folder / TRAJECTORIES)))
        self._batches = [file.get_batch(i) for i in range(file.num_record_batches)]
        self._starts = np.cumsum([0, *(b.num_rows for b in self._batches)])
        self._columns: dict[int, _Columns] = {}
        keys = [hash_strings(pa.chunked_array([b.column("group")])) for b in self._batches]
        rewards = [b.column("reward").to_numpy() for b in self._batches]
        trained = np.concatenate([b.column("trained").to_numpy(zero_copy_only=False) for b in self._batches])
        self.groups = Groups(np.concatenate(keys), np.concatenate(rewards), beta, trained)
        self.rows: npt.NDArray[np.int64] = np.flatnonzero(trained)
        """Those that are trained."""

    def __len__(self) -> int:
        return len(self.rows)

    def sources(self) -> dict[tuple[str, int], npt.NDArray[np.int64]]:
        """Rows that are trained by (source, lag), in order of appearance."""
        rows: dict[tuple[str, int], list[npt.NDArray[np.int64]]] = {}
        for start, batch in zip(self._starts, self._batches, strict=False):
            lags, trained = batch.column("lag").to_numpy(), batch.column("trained").to_numpy(zero_copy_only=False)
            names = batch.column("source").dictionary_encode()
            codes = names.indices.to_numpy()
            for code, name in enumerate(names.dictionary.to_pylist()):
                own = (codes == code) & trained
                for lag in np.unique(lags[own]):
                    here = np.flatnonzero(own & (lags == lag)) + int(start)
                    rows.setdefault((str(name), int(lag)), []).append(here)
        return {key: np.concatenate(parts) for key, parts in rows.items()}

    def response_lengths(self, rows: Iterable[int]) -> list[int]:
        """Response tokens that the policy wrote, by row."""
        return [int(t.response_mask.sum()) for t in self.read([int(row) for row in rows])]

    def read(self, rows: Sequence[int]) -> list[Trajectory]:
        """The trajectories of `rows`, in that order."""
        wanted = np.asarray(rows, dtype=np.int64)
        batches = np.searchsorted(self._starts, wanted, side="right") - 1
        groups = self.groups.of_row[wanted].tolist()
        stats = {group: self.groups.stats(group) for group in set(groups)}
        places = zip(batches.tolist(), (wanted - self._starts[batches]).tolist(), groups, strict=True)
        return [self._trajectory(batch, at, stats[group]) for batch, at, group in places]

    def _trajectory(self, which: int, at: int, group: GroupStats) -> Trajectory:
        columns = self._columns.get(which)
        if columns is None:
            columns = self._columns[which] = _Columns(self._batches[which])
        response, prompt = columns.response.at(at), columns.prompt.at(at)
        assert response is not None
        assert prompt is not None
        mask, reference = columns.mask.at(at), columns.reference.at(at)
        return Trajectory(
            trajectory_id=columns.ids[at].as_py(),
            prompt_id=columns.groups[at].as_py(),
            prompt_ids=prompt,
            response_ids=response,
            response_mask=_all_true(len(response)) if mask is None else mask,
            reward=float(columns.rewards[at]),
            ref_logprobs=np.zeros(len(response), dtype=np.float32) if reference is None else reference,
            behavior_logprobs=columns.behavior.at(at),
            token_rewards=columns.token_rewards.at(at),
            ref_value_first=None if np.isnan(columns.values[at]) else float(columns.values[at]),
            source=columns.sources[columns.source_of[at]],
            lag=int(columns.lags[at]),
            truncated=bool(columns.truncated[at]),
            group=group,
        )


@functools.lru_cache(maxsize=4_096)
def _all_true(size: int) -> npt.NDArray[np.bool_]:
    mask = np.ones(size, dtype=bool)
    mask.setflags(write=False)  # many trajectories share it
    return mask


class _Lists:
    """A column of lists as numpy views; `at(row)` is a slice of the mapped file, None for a null."""

    def __init__(self, array: Any) -> None:
        self._offsets = array.offsets.to_numpy()
        self._values = array.values.to_numpy(zero_copy_only=False)
        self._valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None

    def at(self, row: int) -> npt.NDArray[Any] | None:
        if self._valid is not None and not self._valid[row]:
            return None
        return self._values[self._offsets[row] : self._offsets[row + 1]]


class _Columns:
    """One record batch, ready to be read by row."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.ids, self.groups = batch.column("trajectory_id"), batch.column("group")
        self.prompt, self.response = (
            _Lists(batch.column("prompt_token_ids")),
            _Lists(batch.column("response_token_ids")),
        )
        self.mask, self.behavior = _Lists(batch.column("response_mask")), _Lists(batch.column("behavior_logprobs"))
        self.reference = _Lists(batch.column("ref_token_logprobs"))
        self.token_rewards = _Lists(batch.column("token_rewards"))
        self.rewards, self.lags = batch.column("reward").to_numpy(), batch.column("lag").to_numpy()
        self.values = batch.column("ref_value_first").to_numpy(zero_copy_only=False)  # null becomes NaN
        named = batch.column("source").dictionary_encode()
        self.sources: list[Any] = named.dictionary.to_pylist()
        self.source_of = named.indices.to_numpy()
        self.truncated = pc.equal(batch.column("finish_reason"), "length").to_numpy(zero_copy_only=False)


def batch_rows(
    groups: Sequence[npt.NDArray[np.int64]], seed: int, update: int, prompts: int, apart: bool = False
) -> list[int]:
    """Rows of update `update` (0, 1, …): all trajectories of `prompts` prompts.

    The prompts of all updates are one endless sequence of shuffles of the mix, cut into batches; the order depends on
    the seed alone, so the position in the data is the update's number. A mix of fewer prompts is one batch. A batch
    that begins in one shuffle and ends in the next may hold a prompt twice; with `apart`, none does.
    """
    count = min(prompts, len(groups))
    rows: list[int] = []
    for position in range(update * count, (update + 1) * count):
        epoch, place = divmod(position, len(groups))
        order = _shuffle_apart(len(groups), seed, epoch, count) if apart else _shuffle(len(groups), seed, epoch)
        rows.extend(groups[order[place]].tolist())
    return rows


@functools.lru_cache(maxsize=2)
def _shuffle(size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(size)


@functools.lru_cache(maxsize=2)
def _shuffle_apart(size: int, seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """The shuffle of an epoch in which no prompt stands twice in the batch of `count` that the epoch before began.

    The first prompts of the epoch complete that batch, so they are drawn from the prompts that it does not hold yet.
    """
    begun = epoch
    while begun * size % count:  # go back to an epoch whose start was the start of a batch
        begun -= 1
    order = _shuffle(size, seed, begun)
    for later in range(begun + 1, epoch + 1):
        taken = later * size % count
        drawn = _shuffle(size, seed, later)
        fresh = drawn[~np.isin(drawn, order[size - taken :])][: count - taken]
        order = np.concatenate([fresh, drawn[~np.isin(drawn, fresh)]])
    return order
