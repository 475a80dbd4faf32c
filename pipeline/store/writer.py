"""Writing one partition: shard by shard, resumable, committed by the manifest at the end."""

import importlib.metadata
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.store.ids import checksum
from pipeline.store.lock import exclusive
from pipeline.store.manifest import MANIFEST, Manifest, ShardInfo, Stat
from pipeline.store.schema import conform

if TYPE_CHECKING:
    from pipeline.store.partition import Partition

_CONFIG_KEY = b"tbrm.config_hash"


def code_version() -> str:
    return importlib.metadata.version("tbrm")


class PartitionWriter:
    """Exclusive writer of a partition; use as a context manager.

    A shard of an interrupted run counts as done when its footer carries the same `config_hash`: it was renamed into
    place whole. A committed partition is never touched unless `replace` is given, and then it is moved aside, not deleted.
    """

    def __init__(self, partition: "Partition", config_hash: str, parents: Mapping[str, str], replace: bool) -> None:
        self.partition, self.store = partition, partition.store
        self.config_hash, self.parents, self.replace = config_hash, dict(sorted(parents.items())), replace
        self._held = ExitStack()

    def __enter__(self) -> Self:
        if self.store.is_local:
            self._held.enter_context(exclusive(self.partition.path))
        try:
            if self.partition.is_committed():
                self._make_room()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def shard_path(self, index: int) -> str:
        return f"{self.partition.path}/shard-{index:05d}.parquet"

    def is_done(self, index: int) -> bool:
        """Whether an earlier run with the same configuration finished shard `index`."""
        path = self.shard_path(index)
        if not self.store.fs.exists(path):
            return False
        try:
            with self.store.fs.open(path, "rb") as file:
                metadata = pq.read_metadata(file).metadata or {}
        except (pa.ArrowInvalid, OSError):
            return False  # damaged at rest: it is written again
        return metadata.get(_CONFIG_KEY) == self.config_hash.encode()

    def write(self, index: int, table: pa.Table) -> None:
        """Write shard `index` atomically. Raises StoreError when the rows do not fit the table's schema."""
        rows = conform(self.partition.table, table, f"{self.partition.name} shard {index}")
        rows = rows.replace_schema_metadata({_CONFIG_KEY: self.config_hash.encode()})
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd", compression_level=3, row_group_size=4096)
        self.store.write_atomic(self.shard_path(index), buffer.getvalue())

    def read(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of a shard that is done but not committed yet (for statistics over the whole partition)."""
        data = io.BytesIO(self.store.read_bytes(self.shard_path(index)))
        return pq.read_table(data, columns=list(columns) if columns is not None else None)

    def commit(self, shards: int, stats: Mapping[str, Stat] | None = None) -> Manifest:
        """List shards 0..`shards`-1 in the manifest: from now on the partition exists for readers.

        Raises StoreError when a shard is missing or another writer committed first.
        """
        manifest = Manifest(
            dataset=self.partition.dataset,
            table=self.partition.table,
            generation=self.partition.generation,
            config_hash=self.config_hash,
            code_version=code_version(),
            parents=self.parents,
            shards=tuple(self._info(index) for index in range(shards)),
            stats=dict(stats or {}),
        )
        if self.partition.is_committed():
            raise StoreError(
                f"{self.partition.name} was committed by another writer meanwhile; its shards stand, this run's commit is void"
            )
        self.store.write_atomic(f"{self.partition.path}/{MANIFEST}", manifest.to_json().encode())
        return manifest

    def _info(self, index: int) -> ShardInfo:
        try:
            data = self.store.read_bytes(self.shard_path(index))
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.shard_path(index)} is missing: the partition cannot be committed; run the stage again"
            ) from error
        rows = pq.read_metadata(io.BytesIO(data)).num_rows
        return ShardInfo(f"shard-{index:05d}.parquet", rows, len(data), checksum(data))

    def _make_room(self) -> None:
        manifest = self.partition.manifest()
        if not self.replace:
            raise StoreError(
                f"{self.partition.name} is already committed with another configuration "
                f"({manifest.config_hash}, now {self.config_hash}). Add --replace to write it anew; the old one is kept beside it"
            )
        aside = f"{self.partition.path}.replaced-{manifest.hash[:12]}"
        # The manifest goes first: a reader sees either the old partition whole or none.
        for file in (MANIFEST, *(shard.file for shard in manifest.shards)):
            self.store.fs.makedirs(aside, exist_ok=True)
            self.store.fs.mv(f"{self.partition.path}/{file}", f"{aside}/{file}")
