"""The writers of all tables of one import, opened and committed together."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

import pyarrow as pa

from pipeline.store import PartitionWriter, Stat, Store, TokenizerInfo

_COMMIT_ORDER = ("prompts", "quarantine", "rollouts", "rewards")


class TableWriters:
    """Shards of several tables of one partition. A table that a killed import had committed already is only read."""

    def __init__(
        self,
        store: Store,
        dataset: str,
        generation: int,
        tables: Sequence[str],
        config_hash: str,
        parents: Mapping[str, str],
        replace: bool,
    ) -> None:
        self._partitions = {t: store.partition(dataset, t, generation) for t in _COMMIT_ORDER if t in tables}
        self._config_hash, self._parents, self._replace = config_hash, parents, replace
        self._open: dict[str, PartitionWriter] = {}
        self._held = ExitStack()
        self.all_committed_before = False

    def __enter__(self) -> Self:
        committed = [name for name, p in self._partitions.items() if p.is_committed() and not self._replace]
        same = [name for name in committed if self._partitions[name].manifest().config_hash == self._config_hash]
        self.all_committed_before = len(same) == len(self._partitions)
        with ExitStack() as opened:
            for name, partition in self._partitions.items():
                if name not in same:
                    writer = partition.writer(self._config_hash, self._parents, self._replace)
                    self._open[name] = opened.enter_context(writer)
            self._held = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    @property
    def all_committed(self) -> bool:
        return not self._open

    def is_done(self, index: int) -> bool:
        """Whether every table has shard `index`."""
        return all(writer.is_done(index) for writer in self._open.values())

    def write(self, index: int, tables: Mapping[str, pa.Table]) -> None:
        for name, writer in self._open.items():
            writer.write(index, tables[name])

    def read(self, table: str, index: int, columns: Sequence[str] | None) -> pa.Table:
        if table in self._open:
            return self._open[table].read(index, columns)
        return self._partitions[table].read_shard(index, columns)

    def commit(self, shards: int, stats: Mapping[str, Stat], tokenizer: TokenizerInfo) -> None:
        """Commit table by table. The rewards name the rollouts they belong to, so they come last."""
        for name, writer in self._open.items():
            if name == "rewards":
                rollouts = self._partitions["rollouts"]
                writer.parents = {**writer.parents, rollouts.name: rollouts.manifest().hash}
            ids = tokenizer if name in ("prompts", "rollouts") else None
            writer.commit(shards, stats if name == "rollouts" else None, ids)
