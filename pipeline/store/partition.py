"""The store: tables of experiments and logged data sets, by generation, under one root.

One generation of one table is a partition. It is read shard by shard, written shard by shard, and committed by its
manifest: a reader trusts only what a manifest lists.
"""

import importlib.metadata
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.store.files import PART, Files, checksum, from_json, text_hash
from pipeline.store.locks import exclusive, leased
from pipeline.store.schema import SCHEMA_VERSION, SCHEMAS, conform, count_rows, decode, encode, schema_of

MANIFEST = "_manifest.json"
_GENERATION = re.compile(r"generation=([0-9]{4,9})")
Stat = float | int | str
WRITER = f"pyarrow {pa.__version__}"
"""What writes the bytes of shards."""


@dataclass(frozen=True)
class ShardInfo:
    """One Parquet file: its name in the partition's folder, rows, bytes and checksum."""

    file: str
    rows: int
    bytes: int
    checksum: str


@dataclass(frozen=True)
class TokenizerInfo:
    """Which tokenizer made the token ids of a table: see `pipeline.policies.load_save`."""

    vocabulary: str
    """Hash of the tokens and their ids; 16 hex digits."""
    size: int
    """One more than the highest id."""
    splitting: str
    """Hash of the ids of some fixed texts: merges, normalizer and the rest that turns text into tokens."""


@dataclass(frozen=True)
class Manifest:
    """What was written, from what (parents: partition path -> manifest hash), by which configuration and code."""

    dataset: str
    table: str
    generation: int
    config_hash: str
    code_version: str
    parents: Mapping[str, str]
    shards: tuple[ShardInfo, ...]
    stats: Mapping[str, Stat] = field(default_factory=dict[str, Stat])
    schema_version: int = SCHEMA_VERSION
    tokenizer: TokenizerInfo | None = None
    """Which tokenizer made the token ids. None for tables without ids, and in manifests older than this field."""
    configuration: str | None = None
    """File below the store's root with the whole configuration that ran. None where no experiment ran, and in manifests
    older than this field."""
    written_by: str | None = None
    """What wrote the shards, such as `pyarrow 26.0.1`: by another version the same rows may be other bytes. Several
    where a run was interrupted and went on by another version. None for what is no Parquet, and in older manifests."""

    @property
    def name(self) -> str:
        """Name of the partition, by which other manifests name it as their parent."""
        return f"{self.dataset}/{self.table}/generation={self.generation:04d}"

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def hash(self) -> str:
        """Names the content and its origin.

        Stats such as seconds are left out: a repeated run has the same hash. So is the configuration's file, which
        holds fields that decide nothing; `config_hash` speaks for those that do. What wrote the shards shows in their
        checksums.
        """
        tree = self._tree()
        del tree["stats"], tree["code_version"]
        for name in ("configuration", "written_by"):
            tree.pop(name, None)
        return text_hash(json.dumps(tree, sort_keys=True))

    def to_json(self) -> str:
        return json.dumps(self._tree() | {"rows": self.rows, "hash": self.hash}, indent=1, sort_keys=True) + "\n"

    def _tree(self) -> dict[str, Any]:
        tree = asdict(self)
        for name in ("tokenizer", "configuration", "written_by"):
            if tree[name] is None:  # as it was written before there was such a field: its hash stays the same
                del tree[name]
        return tree


def parse_manifest(text: str, where: str) -> Manifest:
    """Read a manifest. Raises StoreError when it is torn, of another schema version, or was edited by hand."""
    try:
        tree: dict[str, Any] = json.loads(text)
        version = tree["schema_version"]
        if version != SCHEMA_VERSION:
            raise StoreError(f"{where} has schema version {version}; this code reads version {SCHEMA_VERSION}")
        stated = tree.pop("hash")
        tree.pop("rows")
        manifest = from_json(Manifest, tree)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{where} is torn ({error}): restore it or run the stage again with --replace") from error
    if outside := [shard.file for shard in manifest.shards if "/" in shard.file or shard.file.startswith(".")]:
        raise StoreError(f"{where} names a file outside its folder ({outside[0]!r}): it was not written by tbrm")
    if manifest.hash != stated:
        raise StoreError(
            f"{where} does not match its own hash: it was changed after it was written; restore it or run the stage "
            "again with --replace"
        )
    return manifest


@dataclass(frozen=True)
class Partition:
    """One generation of one table: numbered Parquet shards and the manifest that commits them."""

    store: Files
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
    ) -> "PartitionWriter":
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

    def glance(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """`iter_shards`, but only the bytes of `columns` are read, so that nothing can be compared with the manifest.

        To find what is then read by `read_shard`. Shards that cannot be read are left out.
        """
        for index, info in enumerate(self.manifest().shards):
            where = f"{self.path}/{info.file}"
            try:
                with self.store.fs.open(where) as file:
                    yield index, decode(file, columns, where)
            except (StoreError, FileNotFoundError):
                continue

    def shard_path(self, index: int) -> str:
        """Path of shard `index`, whether it is there or not."""
        return f"{self.path}/{shard_file(index)}"

    def iter_shards(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
        """(index, rows) of every shard in order, one in memory at a time."""
        manifest = self.manifest()
        for index in range(len(manifest.shards)):
            yield index, self.read_shard(index, columns, manifest)


class PartitionWriter:
    """Exclusive writer of a partition; use as a context manager.

    Beside each shard a receipt `_shard-<nnnnn>.json` keeps its checksum and `config_hash` until the manifest lists it:
    a shard of an interrupted run counts as done when it still is what its receipt says. A committed partition is never
    touched unless `replace` is given, and then it is moved aside, not deleted.
    """

    def __init__(
        self,
        partition: Partition,
        config_hash: str,
        parents: Mapping[str, str],
        replace: bool,
        configuration: str | None = None,
    ) -> None:
        self.partition, self.store, self.configuration = partition, partition.store, configuration
        self.config_hash, self.parents, self.replace = config_hash, dict(sorted(parents.items())), replace
        self._held = ExitStack()
        self._finished: dict[int, ShardInfo] = {}
        self._writers: dict[int, str] = {}
        """What wrote each finished shard; without those whose receipt does not say."""

    def __enter__(self) -> Self:
        path = self.partition.path
        self._held.enter_context(exclusive(path) if self.store.is_local else leased(self.store, path))
        try:
            if self.partition.is_committed():
                self._make_room()
            self._remove("_tmp.")  # of writers that were killed
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def shard_path(self, index: int) -> str:
        return f"{self.partition.path}/{shard_file(index)}"

    def is_done(self, index: int) -> bool:
        """Whether this or an earlier run with the same configuration finished shard `index`, and it is unharmed."""
        if index in self._finished:
            return True
        try:
            receipt: Any = json.loads(self.store.read_bytes(self._receipt_path(index)))
            data = self.store.read_bytes(self.shard_path(index))
        except (FileNotFoundError, ValueError):
            return False  # not there, or the receipt was damaged at rest: the shard is written again
        writer = receipt.pop("written_by", None) if isinstance(receipt, dict) else None
        if receipt != self._receipt(data):
            return False
        if writer is not None:
            self._note_writer(index, str(writer))
        self._finished[index] = ShardInfo(shard_file(index), count_rows(data), len(data), receipt["checksum"])
        return True

    def _note_writer(self, index: int, writer: str) -> None:
        """Remember what wrote a shard of an interrupted run, and say once where another version writes the others."""
        if writer not in (WRITER, *self._writers.values()):
            logging.getLogger(__name__).warning(
                "%s: shards of an interrupted run were written by %s, the others will be by %s: the same rows may be "
                "other bytes. To have all by one version, delete the folder and run the stage again",
                self.partition.name,
                writer,
                WRITER,
            )
        self._writers[index] = writer

    def write(self, index: int, table: pa.Table) -> None:
        """Write shard `index` atomically. Raises StoreError when the rows do not fit the table's schema."""
        rows = conform(self.partition.table, table, f"{self.partition.name} shard {index}")
        data = encode(rows, self.config_hash)
        info = ShardInfo(shard_file(index), rows.num_rows, len(data), checksum(data))
        receipt = self._receipt(data) | {"written_by": WRITER}
        self.store.write_atomic(self.shard_path(index), data)
        self.store.write_atomic(self._receipt_path(index), json.dumps(receipt).encode())
        self._finished[index], self._writers[index] = info, WRITER

    def read(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of a shard that is done but not committed yet (for statistics over the whole partition)."""
        info, where = self._info(index), self.shard_path(index)
        return decode(self.store.read_checked(where, info.bytes, info.checksum), columns, where)

    def commit(
        self, shards: int, stats: Mapping[str, Stat] | None = None, tokenizer: TokenizerInfo | None = None
    ) -> Manifest:
        """List shards 0..`shards`-1 in the manifest: from now on the partition exists for readers.

        `tokenizer` made the token ids of a table that has some.
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
            tokenizer=tokenizer,
            configuration=self.configuration,
            written_by=", ".join(sorted(set(self._writers.values()))) or None,
        )
        # An interrupted run may have left more shards: somebody who reads the folder without the manifest would take
        # them for rows.
        self._remove("shard-", keep={shard.file for shard in manifest.shards})
        try:
            self.store.create(f"{self.partition.path}/{MANIFEST}", manifest.to_json().encode())
        except FileExistsError as error:
            raise StoreError(
                f"{self.partition.name} was committed by another writer meanwhile; this run's commit is void"
            ) from error
        self._remove("_shard-")
        return manifest

    def _info(self, index: int) -> ShardInfo:
        if not self.is_done(index) or not self.store.fs.exists(self.shard_path(index)):
            raise StoreError(
                f"{self.shard_path(index)} is missing: the partition cannot be committed; run the stage again"
            )
        return self._finished[index]

    def _receipt(self, data: bytes) -> dict[str, str]:
        return {"config_hash": self.config_hash, "checksum": checksum(data)}

    def _receipt_path(self, index: int) -> str:
        return f"{self.partition.path}/_shard-{index:05d}.json"

    def _remove(self, prefix: str, keep: set[str] | None = None) -> None:
        for path in self.store.files(self.partition.path):
            name = path.rsplit("/", 1)[-1]
            if name.startswith(prefix) and name not in (keep or ()):
                self.store.fs.rm_file(path)

    def _make_room(self) -> None:
        where = f"{self.partition.path}/{MANIFEST}"
        if not self.replace:
            there = self.partition.manifest()
            other = [name for name, hash_ in self.parents.items() if there.parents.get(name, hash_) != hash_]
            made = f", made from another {' and '.join(other)}" if other else " with another configuration"
            raise StoreError(
                f"{self.partition.name} is already committed{made} ({there.config_hash}, now {self.config_hash}). Add "
                "--replace to write it anew; the old one is kept beside it"
            )
        # All files are kept, not only those that the manifest lists: a damaged manifest or shard is a usual reason for
        # --replace.
        aside = f"{self.partition.path}.replaced-{checksum(self.store.read_bytes(where)).rpartition(':')[2][:12]}"
        names = [path.rsplit("/", 1)[-1] for path in self.store.files(self.partition.path)]
        files = [*(name for name in names if name.startswith("shard-")), MANIFEST]
        for file in files:  # the copy is complete before anything goes, whenever this process is killed
            self.store.copy(f"{self.partition.path}/{file}", f"{aside}/{file}")
        for file in reversed(files):  # the manifest first: a reader sees the old partition whole or none
            self.store.fs.rm_file(f"{self.partition.path}/{file}")


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


def shard_file(index: int) -> str:
    return f"shard-{index:05d}.parquet"


@cache
def code_version() -> str:
    """Version of this package. It is cached, because every row of `rollouts` names it and a look-up reads files."""
    return importlib.metadata.version("tbrm")


class Store(Files):
    """The tables of all experiments and logged data sets under one root."""

    def partition(self, dataset: str, table: str, generation: int = 0) -> Partition:
        """One generation of one table of `dataset` (an experiment's name, or `logged/<name>`)."""
        return Partition(self, dataset, table, generation)

    def committed(self, dataset: str, table: str, generation: int) -> Manifest | None:
        """The manifest of a partition, or of the record of a trained policy; None where there is none yet.

        Raises StoreError for a damaged one.
        """
        path = f"{self.join(dataset, table, f'generation={generation:04d}')}/{MANIFEST}"
        return parse_manifest(self.read_bytes(path).decode(), path) if self.fs.exists(path) else None

    @property
    def root_for_workers(self) -> str:
        """The root as a process in another folder or on another machine has to name it."""
        return self.base if self.is_local else self.root

    def generations(self, dataset: str, table: str) -> list[int]:
        """Committed generations of a table, ascending."""
        found: list[int] = []
        for path in self.files(self.join(dataset, table)):
            numbered = _GENERATION.fullmatch(path.rsplit("/", 1)[-1])
            if numbered and self.fs.exists(f"{path}/{MANIFEST}"):
                found.append(int(numbered[1]))
        return sorted(found)

    def datasets(self) -> list[str]:
        """Experiments and logged data sets that have at least one table folder."""
        top, logged = (self._folders(path) for path in (self.base, f"{self.base}/logged"))
        own = [name for name in top if name not in ("logged", "evaluated", "dagster_home", "tracked")]
        return sorted(own) + sorted(f"logged/{name}" for name in logged)

    def _folders(self, path: str) -> list[str]:
        """Names of the folders there; what lies beside them under a name that no data set can have is nobody's."""
        names = (found.rsplit("/", 1)[-1] for found in self.files(path) if self.fs.isdir(found))
        return [name for name in names if PART.fullmatch(name)]

    def tables(self, dataset: str) -> list[str]:
        """Tables of a data set, label versions (`rewards@v2`) included."""
        names = [path.rsplit("/", 1)[-1] for path in self.files(self.join(dataset))]
        return [name for name in names if PART.fullmatch(name) and name.partition("@")[0] in SCHEMAS]


def open_store(root: str | None = None) -> Store:
    """The store at `root` (local path, s3://, gs://, …), by default `$TBRM_ROOT` or `./data`."""
    return Store(root or os.environ.get("TBRM_ROOT") or "data")
