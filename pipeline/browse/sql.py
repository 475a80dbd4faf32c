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
    read from Parquet when a query asks for them. The connection opens no other file, local or remote, sees no variable
    of this program and loads no extension. It could write to the shards it reads, so `run_sql` takes queries only.
    """
    import duckdb

    connection = duckdb.connect(":memory:", config={"memory_limit": MEMORY_LIMIT})
    if not store.is_local:
        connection.register_filesystem(store.fs)
    files = shard_files(store)
    for table in SCHEMAS:
        _view(connection, table, table, files.get(table, []), store)
    # The first label of each generation, chosen here: choosing among rows would sort every token's log-prob in memory.
    by_label = sorted(files.get("ref_logprobs", []), key=lambda entry: _label(entry[0]), reverse=True)
    first = {(partition.dataset, partition.generation): (partition, paths) for partition, paths in by_label}
    _view(connection, "first_ref_logprobs", "ref_logprobs", list(first.values()), store)
    connection.execute(_TRAJECTORIES)
    # Queries may come from anybody who can type; they get the tables, not the machine.
    allowed = [_address(store, path) for entries in files.values() for _, paths in entries for path in paths]
    connection.execute("set allowed_paths = $paths", {"paths": allowed})
    connection.execute("set enable_external_access = false")
    connection.execute("set python_enable_replacements = false")
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
    """(column names, at most `limit` rows) of one SELECT.

    Raises TbrmError for anything else, and with DuckDB's own message for a query that fails.
    """
    import duckdb

    try:
        connection = connect(store)
        result = connection.execute(_one_select(connection, query))
        names = [column[0] for column in result.description or []]
        return names, result.fetchmany(limit)
    except duckdb.Error as error:
        raise TbrmError(f"{error}\nViews: trajectories, {', '.join(SCHEMAS)}") from error
    except (OverflowError, ValueError) as error:  # an interval of millennia, a date that no calendar has
        raise TbrmError(f"the query gives a value that cannot be shown ({error}): cast it to varchar") from error


def _one_select(connection: "duckdb.DuckDBPyConnection", query: str) -> "duckdb.Statement":
    """The parsed query. Raises TbrmError unless it is one statement that reads: DuckDB's parser says what it is."""
    import duckdb

    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise TbrmError(f"the query is not text: character {error.start + 1} is no part of UTF-8") from error
    statements = connection.extract_statements(query)
    if not statements:
        raise TbrmError("the query is empty: write one, such as `select count(*) from trajectories`")
    if len(statements) > 1:
        raise TbrmError(f"the query has {len(statements)} statements: run one SELECT at a time")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise TbrmError(
            f"the query is no SELECT but {statements[0].type.name}: `tbrm sql` reads the store and changes nothing"
        )
    return statements[0]


def _view(
    connection: "duckdb.DuckDBPyConnection",
    name: str,
    table: str,
    entries: list[tuple[Partition, list[str]]],
    store: Store,
) -> None:
    """One scan over all files of a table, with a small table that says which partition a file belongs to.

    (A scan for each partition, and their union, takes gigabytes for some hundred generations.)
    """
    if not entries:
        connection.execute(f"create view {name} as {_empty(SCHEMAS[table])}")
        return
    connection.execute(
        f"create table {name}_files (shard_path varchar, dataset varchar, generation int, label varchar)"
    )
    rows = [(_address(store, path), p.dataset, p.generation, _label(p)) for p, paths in entries for path in paths]
    columns = [list(column) for column in zip(*rows, strict=True)]
    connection.execute(f"insert into {name}_files select unnest($1), unnest($2), unnest($3), unnest($4)", columns)
    # `rollouts` has a column `generation` of its own, with the same value. No table has a column `shard_path`.
    own = "" if "generation" in SCHEMAS[table].names else ", f.generation"
    listed = ", ".join(_quoted(str(row[0])) for row in rows)
    scan = f"read_parquet([{listed}], hive_partitioning = false, union_by_name = true, filename = 'shard_path')"
    connection.execute(
        f"create view {name} as select f.dataset{own}, f.label, t.* exclude (shard_path) "
        f"from {scan} t join {name}_files f using (shard_path)"
    )


def _address(store: Store, path: str) -> str:
    """The name of a file of the store for DuckDB: with its protocol, unless it is a local file."""
    return path if store.is_local else store.fs.unstrip_protocol(path)


def _label(partition: Partition) -> str:
    return partition.table.partition("@")[2]


def _empty(schema: Any) -> str:
    generation = "" if "generation" in schema.names else ", null::int as generation"
    columns = "".join(f", null as {name}" for name in schema.names)
    return f"select null::varchar as dataset{generation}, null::varchar as label{columns} where false"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
