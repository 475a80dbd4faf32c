"""Reading one committed partition."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.store.files import Store
from pipeline.store.manifest import MANIFEST, Manifest, parse_manifest
from pipeline.store.parquet import decode
from pipeline.store.schema import schema_of
from pipeline.store.writer import PartitionWriter, shard_file


@dataclass(frozen=True)
class Partition:
    """One generation of one table: numbered Parquet shards and the manifest that commits them."""

    store: Store
    dataset: str
    table: str
    generation: int

    def __post_init__(self) -> None:
        schema_of(self.table)

    @property
    def path(self) -> str:
        return self.store.join(self.dataset, self.table, f"generation={self.generation:04d}")

    @property
    def name(self) -> str:
        """Path below the root: how manifests name their parents."""
        return f"{self.dataset}/{self.table}/generation={self.generation:04d}"

    def is_committed(self) -> bool:
        return self.store.fs.exists(f"{self.path}/{MANIFEST}")

    def manifest(self) -> Manifest:
        """Raises StoreError when the partition is not committed or its manifest is damaged."""
        where = f"{self.path}/{MANIFEST}"
        try:
            text = self.store.read_bytes(where).decode()
        except FileNotFoundError as error:
            command = self.table.partition("@")[0].replace("_", "-")
            raise StoreError(
                f"{self.name} is not there yet: run the stage that writes it "
                f"(`tbrm {command} … --generation {self.generation}`)"
            ) from error
        except UnicodeDecodeError as error:
            raise StoreError(f"{where} is torn (not text): restore it or run the stage again with --replace") from error
        return parse_manifest(text, where)

    def writer(
        self, config_hash: str, parents: Mapping[str, str], replace: bool = False, configuration: str | None = None
    ) -> PartitionWriter:
        """The exclusive writer of this partition, a context manager. See PartitionWriter.

        `configuration`: file of the whole configuration that runs, as `pipeline.run.configurations` keeps it.
        """
        return PartitionWriter(self, config_hash, parents, replace, configuration)

    def read_shard(
        self, index: int, columns: Sequence[str] | None = None, manifest: Manifest | None = None
    ) -> pa.Table:
        """Rows of shard `index`. Its bytes are checked against the manifest first: raises StoreError on any damage."""
        shards = (manifest or self.manifest()).shards
        if not 0 <= index < len(shards):
            raise StoreError(f"{self.name} has {len(shards)} shards; there is no shard {index}")
        info = shards[index]
        where = f"{self.path}/{info.file}"
        return decode(self.store.read_checked(where, info.bytes, info.checksum), columns, where)

    def shard_path(self, index: int) -> str:
        """Where shard `index` lies, or would."""
        return f"{self.path}/{shard_file(index)}"

    def iter_shards(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
        """(index, rows) of every shard in order, one in memory at a time."""
        manifest = self.manifest()
        for index in range(len(manifest.shards)):
            yield index, self.read_shard(index, columns, manifest)


def check_aligned(rollouts: pa.Table, sidecar: pa.Table, where: str) -> None:
    """Raise StoreError unless both tables hold the same trajectories in the same order."""
    left, right = rollouts.column("trajectory_id"), sidecar.column("trajectory_id")
    if left.equals(right):
        return
    row = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    raise StoreError(
        f"{where}: row {row} belongs to another trajectory than the rollout of that row ({len(left)} rollouts, "
        f"{len(right)} rows); write the sidecar again with --replace"
    )
