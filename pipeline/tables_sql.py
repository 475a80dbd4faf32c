"""DuckDB over a store: a view for each table, and `trajectories`, which joins rollouts with their labels."""

from typing import TYPE_CHECKING, Any

from pipeline.errors import TbrmError
from pipeline.store import SCHEMAS, Partition, Store

if TYPE_CHECKING:
    import duckdb

# Version labels (`rewards@v2`) are columns of a view rather than views of their own.
_TRAJECTORIES = """
create view trajectories as
select r.*, p.prompt_text, p.answer, p.source as prompt_source,
       w.reward, w.status, w.extracted_answer, w.verifier,
       l.ref_logprob_sum, l.ref_value_first, l.ref_policy_id
from rollouts r
left join (select distinct on (dataset, generation, prompt_id)
                  dataset, generation, prompt_id, prompt_text, answer, source from prompts) p
     using (dataset, generation, prompt_id)
left join (select * from rewards where label = '') w using (dataset, generation, trajectory_id)
left join first_ref_logprobs l using (dataset, generation, trajectory_id)
"""
MEMORY_LIMIT = "4GB"


def connect(store: Store) -> "duckdb.DuckDBPyConnection":
    """An in-memory DuckDB with a view for every table, over exactly the shards that manifests list.

    Every view has the columns `dataset`, `generation` and `label` (the version behind `@`, empty for none). Rows are
    read from Parquet when a query asks for them. Nothing can be written: the connection sees no other file.
    """
    import duckdb

    connection = duckdb.connect(":memory:", config={"memory_limit": MEMORY_LIMIT})
    if not store.is_local:
        connection.register_filesystem(store.fs)
    files = shard_files(store)
    for table, schema in SCHEMAS.items():
        parts = [_select(partition, paths, store) for partition, paths in files.get(table, [])]
        connection.execute(f"create view {table} as {' union all by name '.join(parts) or _empty(schema)}")
    # The first label of each generation, chosen here: choosing among rows would sort every token's log-prob in memory.
    first = {
        (p.dataset, p.generation): (p, paths)
        for p, paths in sorted(files.get("ref_logprobs", []), key=_label, reverse=True)
    }
    chosen = " union all by name ".join(_select(p, paths, store) for p, paths in first.values())
    connection.execute(f"create view first_ref_logprobs as {chosen or _empty(SCHEMAS['ref_logprobs'])}")
    connection.execute(_TRAJECTORIES)
    if store.is_local:
        # Queries may come from anybody who can type; they get the tables, not the machine.
        allowed = [path for entries in files.values() for _, paths in entries for path in paths]
        connection.execute("set allowed_paths = $paths", {"paths": allowed})
        connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def shard_files(store: Store) -> dict[str, list[tuple[Partition, list[str]]]]:
    """Table -> (partition, paths of its shards), of every committed partition of the store."""
    found: dict[str, list[tuple[Partition, list[str]]]] = {}
    for dataset in store.datasets():
        for name in store.tables(dataset):
            table = name.partition("@")[0]
            for generation in store.generations(dataset, name):
                partition = store.partition(dataset, name, generation)
                paths = [f"{partition.path}/{shard.file}" for shard in partition.manifest().shards if shard.rows]
                if paths:
                    found.setdefault(table, []).append((partition, paths))
    return found


def run_sql(store: Store, query: str, limit: int) -> tuple[list[str], list[tuple[Any, ...]]]:
    """(column names, at most `limit` rows) of a query. Raises TbrmError with DuckDB's own message."""
    import duckdb

    try:
        result = connect(store).execute(query)
        if result is None:  # pyright: ignore[reportUnnecessaryComparison]  # its stubs do not know of empty queries
            raise TbrmError("the query is empty: write one, such as `select count(*) from trajectories`")
        names = [column[0] for column in result.description or []]
        return names, result.fetchmany(limit)
    except duckdb.Error as error:
        raise TbrmError(f"{error}\nViews: trajectories, {', '.join(SCHEMAS)}") from error


def _label(entry: tuple[Partition, list[str]]) -> str:
    return entry[0].table.partition("@")[2]


def _select(partition: Partition, paths: list[str], store: Store) -> str:
    listed = ", ".join(_quoted(path if store.is_local else store.fs.unstrip_protocol(path)) for path in paths)
    label = partition.table.partition("@")[2]
    # `rollouts` has a column `generation` of its own, with the same value.
    own = (
        ""
        if "generation" in SCHEMAS[partition.table.partition("@")[0]].names
        else f", {partition.generation} as generation"
    )
    where = f"read_parquet([{listed}], hive_partitioning = false)"
    return f"select {_quoted(partition.dataset)} as dataset{own}, {_quoted(label)} as label, * from {where}"


def _empty(schema: Any) -> str:
    generation = "" if "generation" in schema.names else ", null::int as generation"
    columns = "".join(f", null as {name}" for name in schema.names)
    return f"select null::varchar as dataset{generation}, null::varchar as label{columns} where false"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
