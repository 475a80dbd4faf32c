"""Tables of trajectories out of the store, one shard at a time, in the columns of `trainer.data.SCHEMA`."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pipeline.replay import Mix

from pipeline.store import Partition, Store, check_aligned
from trainer.data import SCHEMA

_ROLLOUT_COLUMNS = (
    *("trajectory_id", "prompt_id", "prompt_token_ids", "response_token_ids", "response_mask", "finish_reason"),
    "behavior_logprobs",
)
_REWARD_COLUMNS = ("trajectory_id", "reward", "token_rewards")
_REFERENCE_COLUMNS = ("trajectory_id", "ref_token_logprobs", "ref_value_first")


def mix_tables(store: Store, mix: Mix) -> Iterator[pa.Table]:
    """The chosen rows of every part of the mix. Raises StoreError for damaged or unaligned shards."""
    for part in mix.parts:
        rollouts = store.partition(part.dataset, "rollouts", part.generation)
        table = rollouts.read_shard(part.shard, _ROLLOUT_COLUMNS)
        for name, columns in (("rewards", _REWARD_COLUMNS), ("ref_logprobs", _REFERENCE_COLUMNS)):
            sidecar = store.partition(part.dataset, name, part.generation)
            rows = sidecar.read_shard(part.shard, columns)
            check_aligned(table, rows, f"{sidecar.name} shard {part.shard}")
            for column in columns[1:]:
                table = table.append_column(column, rows.column(column))
        yield _labelled(table.take(pa.array(part.rows)), part.source, part.lag, f"{part.dataset}/{part.generation}")


def logged_tables(partitions: Sequence[Partition]) -> Iterator[pa.Table]:
    """All rollouts of a logged data set, for imitation: without rewards and reference log-probs."""
    for partition in partitions:
        for _, table in partition.iter_shards(_ROLLOUT_COLUMNS):
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
