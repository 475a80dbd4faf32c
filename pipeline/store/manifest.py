"""The manifest commits a partition: a reader trusts only what it lists."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import StoreError
from pipeline.store.ids import text_hash
from pipeline.store.schema import SCHEMA_VERSION

MANIFEST = "_manifest.json"
Stat = float | int | str


@dataclass(frozen=True)
class ShardInfo:
    """One Parquet file: its name in the partition's folder, rows, bytes and checksum."""

    file: str
    rows: int
    bytes: int
    checksum: str


@dataclass(frozen=True)
class TokenizerInfo:
    """Which tokenizer made the token ids of a table: see `pipeline.policies.tokenizer`."""

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
        holds fields that decide nothing; `config_hash` speaks for those that do.
        """
        tree = self._tree()
        del tree["stats"], tree["code_version"]
        tree.pop("configuration", None)
        return text_hash(json.dumps(tree, sort_keys=True))

    def to_json(self) -> str:
        return json.dumps(self._tree() | {"rows": self.rows, "hash": self.hash}, indent=1, sort_keys=True) + "\n"

    def _tree(self) -> dict[str, Any]:
        tree = asdict(self)
        for name in ("tokenizer", "configuration"):
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
        tree["shards"] = tuple(ShardInfo(**shard) for shard in tree["shards"])
        if "tokenizer" in tree:
            tree["tokenizer"] = TokenizerInfo(**tree["tokenizer"])
        manifest = Manifest(**tree)
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
