"""Shards as bytes. How they are laid out was chosen by measurement: docs/data.md, "Files"."""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError

CONFIG_KEY = b"tbrm.config_hash"
"""In a shard's footer: the configuration that wrote it, also after the file was copied out of the store."""
_OF_FEW_VALUES = [
    *("prompt_id", "finish_reason", "policy_id", "sampling.engine", "sampling.engine_version", "status", "verifier"),
    *(
        "verifier_version",
        "components.key_value.key",
        "ref_policy_id",
        "source",
        "benchmark",
        "file",
        "field",
        "reason",
    ),
]
_FLOATS = ("behavior_logprobs", "ref_token_logprobs", "token_rewards")
_LAYOUT: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "row_group_size": 4_096,
    # A dictionary of tokens or log-probs is larger than the values, and slower to write.
    "use_dictionary": _OF_FEW_VALUES,
    # Floats byte by byte: their exponents, which repeat, lie together.
    "column_encoding": {f"{column}.list.element": "BYTE_STREAM_SPLIT" for column in _FLOATS},
}


def encode(rows: pa.Table, config_hash: str) -> bytes:
    """A Parquet file of `rows`. The same rows, configuration and pyarrow version give the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata({CONFIG_KEY: config_hash.encode()}), buffer, **_LAYOUT)
    return buffer.getvalue()


def decode(data: bytes, columns: Sequence[str] | None, where: str) -> pa.Table:
    """Rows of a Parquet file, `columns` in that order. Raises StoreError for bytes that are no such file."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        rows = file.read(columns=list(columns) if columns is not None else None)
        return rows if columns is None else rows.select(list(columns))
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise StoreError(f"{where} cannot be read as Parquet: {error}; run its stage again with --replace") from error


def count_rows(data: bytes) -> int:
    """Rows of a Parquet file whose checksum is known to be right."""
    return pq.read_metadata(pa.BufferReader(data)).num_rows
