"""Tables of trajectories out of the store, one shard at a time, in the columns of `trainer.data.trajectories.SCHEMA`."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.replay import Mix
from pipeline.replay.mix import ROLLOUT_COLUMNS
from pipeline.store import Partition, Store
from pipeline.policies.tokenizer import check_ids
from trainer.data.trajectories import SCHEMA


def mix_tables(store: Store, mix: Mix, vocabulary: int) -> Iterator[pa.Table]:
    """The chosen rows of every part of the mix, to train a policy that knows `vocabulary` token ids.

    Raises StoreError for damaged or unaligned shards, and for a token id beyond the vocabulary.
    """
    for part, table in mix.tables(store):
        rollouts = store.partition(part.dataset, "rollouts", part.generation)
        check_ids(table, vocabulary, rollouts.shard_path(part.shard), "the policy", part.rows.tolist())
        yield _labelled(table, part.source, part.lag, f"{part.dataset}/{part.generation}")


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
