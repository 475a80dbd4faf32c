"""Trajectories as durable, checked data: Parquet shards, committed by manifests, under one root."""

from pipeline.store.files import checksum, seed_of, sync_folder, text_hash, trajectory_id
from pipeline.store.locks import exclusive
from pipeline.store.partition import (
    Manifest,
    Partition,
    PartitionWriter,
    ShardInfo,
    Stat,
    Store,
    TokenizerInfo,
    check_aligned,
    code_version,
    open_store,
)
from pipeline.store.schema import SCHEMAS, schema_of

__all__ = [
    "SCHEMAS",
    "Manifest",
    "Partition",
    "PartitionWriter",
    "ShardInfo",
    "Stat",
    "Store",
    "TokenizerInfo",
    "check_aligned",
    "checksum",
    "code_version",
    "exclusive",
    "open_store",
    "schema_of",
    "seed_of",
    "sync_folder",
    "text_hash",
    "trajectory_id",
]
