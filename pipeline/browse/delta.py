"""Committed shards as a Delta table: a log beside them names the files, and none is copied.

Spark, Trino, DuckDB, Polars and others read such a table where it lies. Each export adds a version to the log, in which
the files are those of the manifests at that moment. What was replaced in the store since is found by the next export.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.store import Manifest, Store, schema_of

LOG = "_delta_log"
GENERATION = "generation"
"""The partition column. Its values are in the names of the folders; tables without such a column get it."""
_TYPES: Mapping[pa.DataType, str] = {
    pa.string(): "string",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.bool_(): "boolean",
}


@dataclass(frozen=True)
class Exported:
    """A table as it can be read now. `added` and `removed` count files against the version before."""

    table: str
    path: str
    version: int
    rows: int
    added: int
    removed: int


def export_delta(store: Store, dataset: str, table: str) -> Exported:
    """Write the next version of the table's log, unless nothing has changed since the last one.

    Raises StoreError where nothing is committed, and where another export writes the same version.
    """
    manifests = [store.partition(dataset, table, number).manifest() for number in store.generations(dataset, table)]
    if not manifests:
        raise StoreError(f"{dataset}/{table} has no committed generation in {store.root}: `tbrm inspect` lists tables")
    now = int(time.time() * 1_000)
    files = {path: file for manifest in manifests for path, file in _files(manifest, now)}
    folder = store.join(dataset, table)
    last, before = _registered(store, folder)
    # A file that was replaced is added again: a version of the log names a file only once.
    new = [file for path, file in files.items() if before.get(path) != file["tags"]["checksum"]]
    gone = [{"path": path, "deletionTimestamp": now, "dataChange": True} for path in before if path not in files]
    if new or gone:
        last += 1
        actions = [] if last else _beginning(table, now)
        actions += [{"remove": file} for file in gone] + [{"add": file} for file in new]
        log = f"{folder}/{LOG}/{last:020d}.json"
        try:
            store.create(log, "".join(json.dumps(action) + "\n" for action in actions).encode())
        except FileExistsError as error:
            raise StoreError(f"{log} was written by another export just now: run it again") from error
    return Exported(table, folder, last, sum(manifest.rows for manifest in manifests), len(new), len(gone))


def _files(manifest: Manifest, now: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path in the table's folder, what Delta says of it) of each shard."""
    for shard in manifest.shards:
        path = f"generation={manifest.generation:04d}/{shard.file}"
        yield (
            path,
            {
                "path": path,
                "partitionValues": {GENERATION: str(manifest.generation)},
                "size": shard.bytes,
                "modificationTime": now,
                "dataChange": True,
                "stats": json.dumps({"numRecords": shard.rows}),
                "tags": {"checksum": shard.checksum},
            },
        )


def _registered(store: Store, folder: str) -> tuple[int, dict[str, str]]:
    """The last version of the log (-1: there is none), and its files with their checksums."""
    names = [path for path in store.files(f"{folder}/{LOG}") if path.endswith(".json")]
    files: dict[str, str] = {}
    for path in names:
        try:
            for line in store.read_bytes(path).decode().splitlines():
                action = json.loads(line)
                if "add" in action:
                    files[action["add"]["path"]] = (action["add"].get("tags") or {}).get("checksum", "")
                elif "remove" in action:
                    files.pop(action["remove"]["path"], None)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(
                f"{path} is no version of a Delta table ({type(error).__name__}: {error}): restore it, or delete "
                f"{folder}/{LOG} and export again; the shards are not touched"
            ) from error
    return len(names) - 1, files


def _beginning(table: str, now: int) -> list[dict[str, Any]]:
    """What the first version says of the whole table."""
    schema = schema_of(table)
    if GENERATION not in schema.names:
        schema = schema.append(pa.field(GENERATION, pa.int32()))
    about = {
        "id": str(uuid.uuid4()),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": [_field(field) for field in schema]}),
        "partitionColumns": [GENERATION],
        "configuration": {},
        "createdTime": now,
    }
    return [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": about}]


def _field(field: "pa.Field[Any]") -> dict[str, Any]:
    return {"name": field.name, "type": _type(field.type), "nullable": field.nullable, "metadata": {}}


def _type(kind: Any) -> Any:
    """A type of a column by its name in Delta."""
    if pa.types.is_list(kind):
        return {"type": "array", "elementType": _type(kind.value_type), "containsNull": True}
    if pa.types.is_map(kind):
        names = {"keyType": _type(kind.key_type), "valueType": _type(kind.item_type)}
        return {"type": "map", **names, "valueContainsNull": True}
    if pa.types.is_struct(kind):
        return {"type": "struct", "fields": [_field(kind.field(index)) for index in range(kind.num_fields)]}
    return _TYPES[kind]
