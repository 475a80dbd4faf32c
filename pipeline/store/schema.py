"""The tables of a store: their columns, and their rows as Parquet.

Plain Parquet types, so that pandas, Polars, DuckDB and `datasets` read the shards directly. The layout of a file was
chosen by measurement: docs/data.md, "Files".
"""

import io
from collections.abc import Sequence
from typing import IO, Any

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


def decode(data: bytes | IO[bytes], columns: Sequence[str] | None, where: str) -> pa.Table:
    """Rows of a Parquet file, `columns` in that order. Raises StoreError for bytes that are no such file."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data) if isinstance(data, bytes) else data)
        rows = file.read(columns=list(columns) if columns is not None else None)
        return rows if columns is None else rows.select(list(columns))
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise StoreError(f"{where} cannot be read as Parquet: {error}; run its stage again with --replace") from error


def count_rows(data: bytes) -> int:
    """Rows of a Parquet file whose checksum is known to be right."""
    return pq.read_metadata(pa.BufferReader(data)).num_rows


SCHEMA_VERSION = 1

_TOKENS = pa.list_(pa.int32())
_SAMPLING = pa.struct(
    [
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_tokens", pa.int32()),
        ("seed", pa.int64()),
        ("engine", pa.string()),
        ("engine_version", pa.string()),
    ]
)


def _schema(required: dict[str, pa.DataType], nullable: dict[str, pa.DataType]) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    return pa.schema(fields + [pa.field(name, kind) for name, kind in nullable.items()])


SCHEMAS: dict[str, pa.Schema] = {
    "prompts": _schema(
        {
            "prompt_id": pa.string(),
            "prompt_text": pa.string(),
            "prompt_token_ids": _TOKENS,
            "answer": pa.string(),
            "verifier": pa.string(),
            "source": pa.string(),
            "extra": pa.string(),
        },
        {},
    ),
    "rollouts": _schema(
        {
            "trajectory_id": pa.string(),
            "prompt_id": pa.string(),
            "sample_index": pa.int32(),
            "prompt_token_ids": _TOKENS,
            "response_token_ids": _TOKENS,
            "response_text": pa.string(),
            "finish_reason": pa.string(),
            "policy_id": pa.string(),
            "generation": pa.int32(),
            "sampling": _SAMPLING,
        },
        {"response_mask": pa.list_(pa.bool_()), "behavior_logprobs": pa.list_(pa.float32())},
    ),
    "rewards": _schema(
        {
            "trajectory_id": pa.string(),
            "reward": pa.float64(),
            "status": pa.string(),
            "verifier": pa.string(),
            "verifier_version": pa.string(),
        },
        {
            "extracted_answer": pa.string(),
            "detail": pa.string(),
            "components": pa.map_(pa.string(), pa.float64()),
            "token_rewards": pa.list_(pa.float32()),
        },
    ),
    "ref_logprobs": _schema(
        {
            "trajectory_id": pa.string(),
            "ref_logprob_sum": pa.float64(),
            "ref_token_logprobs": pa.list_(pa.float32()),
            "ref_value_first": pa.float64(),
            "ref_policy_id": pa.string(),
        },
        {},
    ),
    "responses": _schema(
        {
            "benchmark": pa.string(),
            "problem_id": pa.string(),
            "sample_index": pa.int32(),
            "prompt_text": pa.string(),
            "prompt_token_ids": _TOKENS,
            "answer": pa.string(),
            "verifier": pa.string(),
            "extra": pa.string(),
            "response_text": pa.string(),
            "response_tokens": pa.int32(),
            "finish_reason": pa.string(),
            "policy_id": pa.string(),
            "sampling": _SAMPLING,
        },
        {"response_token_ids": _TOKENS},
    ),
    "scores": _schema(
        {
            "benchmark": pa.string(),
            "problem_id": pa.string(),
            "sample_index": pa.int32(),
            "correct": pa.float64(),
            "response_text": pa.string(),
            "finish_reason": pa.string(),
            "policy_id": pa.string(),
        },
        {
            "extracted_answer": pa.string(),
            "response_tokens": pa.int32(),
            "status": pa.string(),
            "verifier": pa.string(),
            "verifier_version": pa.string(),
            "detail": pa.string(),
        },
    ),
    "quarantine": _schema(
        {"file": pa.string(), "row": pa.int64(), "field": pa.string(), "reason": pa.string()},
        {"value": pa.string()},
    ),
}
"""`sampling.seed` is the request's seed. `ref_value_first` is V_ref at the first policy-written token, in nats.
`components` maps a reward component's name to its unweighted value; `token_rewards` aligns with `response_token_ids`.
`responses` are those of a benchmark, each with its gold answer: they can be graded again by themselves. Their token ids
are null where the policy is a server that does not tell them."""


MEANINGS = {
    "prompt_id": "identifier of the prompt within its data set",
    "prompt_text": "the prompt as text, template included",
    "prompt_token_ids": "what the policy saw; token ids are the truth, text is for people",
    "answer": "the gold answer",
    "verifier": "who grades it; of a prompt: empty where the experiment's does",
    "source": "where the prompt comes from, such as a task",
    "extra": "what its verifier needs beside the answer, as JSON",
    "trajectory_id": "hash of data set, generation, prompt_id and sample_index: a repeated run makes the same",
    "sample_index": "number of the response to its prompt, from 0",
    "response_token_ids": "actions a_1..a_H; null where a server does not tell them",
    "response_text": "the response as text, for people",
    "response_tokens": "how many tokens the response has",
    "response_mask": "false: the token was written by the environment, not by the policy; null: all by the policy",
    "finish_reason": "stop, length (cut at the limit), or what a log says",
    "policy_id": "content hash of the sampling policy's weights and tokenizer",
    "generation": "generation that sampled it",
    "sampling": "temperature, top_p, max_tokens, seed of the request, engine and its version",
    "behavior_logprobs": "log π_b(a_h | s_h) in nats; TBRM does not need it",
    "reward": "r(τ)",
    "status": "ok, wrong_format, timeout, memory or error",
    "verifier_version": "its version: another one may judge otherwise",
    "extracted_answer": "the answer that the verifier found; null: none",
    "detail": "what the verifier says about its verdict",
    "components": "unweighted value of each reward component, by name",
    "token_rewards": "reward of each response token; null: the outcome alone is rewarded",
    "ref_logprob_sum": "Σ_h log π_ref(a_h | s_h) in nats",
    "ref_token_logprobs": "log π_ref(a_h | s_h) in nats, one a response token",
    "ref_value_first": "V_ref(s_1) = log Σ_a exp logit(s_1, a), in nats",
    "ref_policy_id": "content hash of the reference policy",
    "benchmark": "name of the benchmark entry",
    "problem_id": "identifier of the problem within its benchmark",
    "correct": "verdict in [0, 1]",
    "file": "file of the log",
    "row": "row of that file, from 1",
    "field": "field that is wrong; empty: the row as a whole",
    "reason": "what is wrong with it",
    "value": "the beginning of the value that was refused",
}
"""What each column holds; the same name means the same in every table."""


def schema_of(table: str) -> pa.Schema:
    """Schema of a table; a version after `@` (a re-labelled sidecar) does not change it. Raises StoreError."""
    name = table.partition("@")[0]
    if name not in SCHEMAS:
        raise StoreError(f"there is no table {table!r}; tables are {', '.join(SCHEMAS)}")
    return SCHEMAS[name]


def conform(table: str, rows: pa.Table, where: str) -> pa.Table:
    """`rows` with exactly the columns, order and types of `table`; absent nullable columns become null.

    Raises StoreError naming the column when one is missing, unknown, of another type, or null where it must not be.
    """
    schema = schema_of(table)
    unknown = [name for name in rows.column_names if name not in schema.names]
    if unknown:
        raise StoreError(f"{where}: unknown column {unknown[0]!r} for table {table!r}")
    columns: list[pa.ChunkedArray[Any] | pa.Array[Any]] = []
    for field in schema:
        if field.name not in rows.column_names:
            if not field.nullable:
                raise StoreError(f"{where}: column {field.name!r} is missing")
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        try:
            column = rows.column(field.name).cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise StoreError(f"{where}: column {field.name!r} is not {field.type}: {error}") from error
        if not field.nullable and column.null_count:
            raise StoreError(f"{where}: column {field.name!r} has {column.null_count} nulls where none may be")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)
