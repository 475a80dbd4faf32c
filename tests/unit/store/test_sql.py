"""`tbrm sql` on a folder and on a root that is none: it answers queries, and does nothing else."""

import hashlib
import uuid
from collections.abc import Generator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.browse.sql import run_sql
from pipeline.errors import TbrmError
from pipeline.store import Store, open_store
from tests.unit.replay.replay_store import write_generation, write_table

QUARANTINED = [{"file": "log.jsonl", "row": 7, "field": "reward", "reason": "not a number", "value": "NaN"}]
SECRET = "what no query may read"
table_of_the_caller = pa.table({"secret": [SECRET]})


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the machine that holds a secret, and the store `data` where that lies in a folder."""
    folder = tmp_path_factory.mktemp("sql")
    (folder / "secret.txt").write_text(SECRET)
    return folder


@pytest.fixture(scope="module", params=["folder", "memory"])
def store(request: pytest.FixtureRequest, outside: Path) -> Generator[Store]:
    """Two generations of an experiment, and a logged data set with one quarantined row."""
    memory = request.param == "memory"
    store = open_store(f"memory://{uuid.uuid4().hex}" if memory else str(outside / "data"))
    for generation in range(2):
        write_generation(store, "exp", generation)
    write_table(store, "logged/log", "quarantine", 0, [QUARANTINED], {})
    store.fs.pipe_file(f"{store.base}/secret.txt", SECRET.encode())
    if memory:
        store.fs.pipe_file("/elsewhere/secret.txt", SECRET.encode())
    yield store
    if memory:
        store.fs.rm(store.base, recursive=True)
        store.fs.rm("/elsewhere", recursive=True)


def content(store: Store) -> dict[str, str]:
    """SHA-256 of every file of the store."""
    return {path: hashlib.sha256(store.read_bytes(path)).hexdigest() for path in store.fs.find(store.base)}


def test_quarantined_rows_can_be_queried_and_break_no_other_query(store: Store) -> None:
    names, rows = run_sql(store, 'select dataset, label, file, "row", reason from quarantine', 10)
    assert names == ["dataset", "label", "file", "row", "reason"]
    assert rows == [("logged/log", "", "log.jsonl", 7, "not a number")]
    counts = run_sql(store, "select generation, count(*) from trajectories group by 1 order by 1", 10)[1]
    assert counts == [(0, 16), (1, 16)]


@pytest.mark.parametrize(
    "query",
    [
        "with t as (select reward from rewards) select count(*) from t",
        "from rollouts select count(*)",
        "select count(*) from rollouts;  -- with a comment",
        "describe rollouts",
        "summarize rewards",
        "show tables",
        "values (1)",
        "table quarantine",
    ],
)
def test_every_form_of_a_query_is_answered(store: Store, query: str) -> None:
    assert run_sql(store, query, 10)[1]


ATTACKS = [
    # more than a query
    "copy rewards to '{shard}' (use_tmp_file false)",
    "copy (select 1 as a) to '{shard}' (format csv, use_tmp_file false)",
    "copy rewards to '{outside}'",
    "copy rewards from '{secret}'",
    "attach '{shard}' as other",
    "attach '{outside}' as other",
    "attach '{shard}' (type sqlite)",
    "export database '{outside}'",
    "import database '{outside}'",
    "create table mine as select 1",
    "create or replace view rollouts as select 1",
    "create macro read(x) as table select * from read_text(x)",
    "insert into rollouts_files select * from rollouts_files",
    "delete from rollouts_files",
    "drop view rollouts",
    "set enable_external_access = true",
    "set allowed_directories = ['/']",
    "reset lock_configuration",
    "set variable x = 1",
    "pragma enable_profiling",
    "pragma add_parquet_key('k', '0123456789112345')",
    "call enable_logging(storage = 'file', storage_path = '{outside}')",
    "install httpfs",
    "load '{secret}'",
    "create secret (type s3, key_id 'k', secret 's')",
    "prepare p as select 1",
    "execute p",
    "checkpoint",
    "vacuum",
    "explain analyze copy rewards to '{outside}'",
    "explain analyze select * from read_text('{secret}')",
    "select 1; copy rewards to '{outside}'",
    "copy rewards to '{outside}'; select 1",
    "select 1; select 2",
    # queries that reach beyond the tables
    "select * from read_text('{secret}')",
    "select * from read_blob('{secret}')",
    "select * from read_csv('{secret}')",
    "select * from read_json('{secret}')",
    "select * from read_parquet('{secret}')",
    "select * from sniff_csv('{secret}')",
    "select * from read_duckdb('{secret}', table_name = 't')",
    "select * from parquet_metadata('{secret}')",
    "select * from glob('{folder}/*')",
    "select * from '{secret}'",
    "select * from read_text('file://{secret}')",
    "select * from read_text('memory:///elsewhere/secret.txt')",
    "select * from read_text('{root}/../secret.txt')",
    "select * from read_text('{shard}/../../../../../secret.txt')",
    "select * from read_text('http://127.0.0.1:9/secret.txt')",
    "select * from read_text('s3://elsewhere/secret.txt')",
    "select * from query('copy rewards to ''{outside}''')",
    "select * from query('select * from read_text(''{secret}'')')",
    "select * from json_execute_serialized_sql(json_serialize_sql('select * from read_text(''{secret}'')'))",
    "select * from enable_logging(storage = 'file', storage_path = '{outside}')",
    "select * from enable_profiling(save_location = '{outside}')",
    "select * from table_of_the_caller",
    "select * from store",
    "select getenv('HOME')",
    "select * from arrow_scan(1, 2, 3)",
    "select * from pandas_scan(1)",
    # no SQL at all
    "selekt",
    "",
    " \n-- nothing",
    "\0",
    "select 1 \ud800",
]


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_what_is_no_query_of_the_tables_is_refused_and_changes_nothing(
    store: Store, outside: Path, attack: str
) -> None:
    shard = store.partition("exp", "rewards").path + "/shard-00000.parquet"
    names = {
        "shard": shard if store.is_local else store.fs.unstrip_protocol(shard),
        "root": store.base if store.is_local else store.fs.unstrip_protocol(store.base),
        "secret": str(outside / "secret.txt"),
        "outside": str(outside / "new"),
        "folder": str(outside),
    }
    query = attack
    for name, value in names.items():
        query = query.replace(f"{{{name}}}", value)
    before, files = content(store), sorted(outside.rglob("*"))
    with pytest.raises(TbrmError) as refused:
        run_sql(store, query, 10)
    assert SECRET not in str(refused.value)
    assert content(store) == before
    assert sorted(outside.rglob("*")) == files


def test_a_value_that_python_has_no_word_for_is_told(store: Store) -> None:
    with pytest.raises(TbrmError, match=r"cannot be shown .*cast it to varchar"):
        run_sql(store, "select interval '9999999 years'", 10)
    assert run_sql(store, "select (interval '9999999 years')::varchar", 10)[1]
