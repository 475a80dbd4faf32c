"""Dagster's own storage (runs, events, schedules): one folder per store root, configured by dagster.yaml."""

import contextlib
import errno
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from dagster import DagsterInstance

from pipeline.config.load import DEFAULTS
from pipeline.errors import TbrmError
from pipeline.store import Store
from pipeline.store.locks import locked

POSTGRES_URL = "TBRM_POSTGRES_URL"
_TABLES_LOCK = 0x7462726D
"""Key of the advisory lock under which Dagster's tables are made: `tbrm` in ASCII."""
_LITTLE_ROOM = 1 << 20
"""A disk with fewer bytes left is full for SQLite, which writes pages and a journal of them."""
_TEMPLATE = DEFAULTS / "dagster.yaml"
_OURS = "# Written by tbrm at every start, from the repository's dagster.yaml. Delete this line to keep changes.\n"
_POSTGRES = f"""
storage:
  postgres:
    postgres_url:
      env: {POSTGRES_URL}
"""


def dagster_home(store: Store) -> Path:
    """$DAGSTER_HOME; else `dagster_home/` in a local store root; else `.dagster/` here."""
    named = os.environ.get("DAGSTER_HOME")
    if named:
        return Path(named).resolve()
    return (Path(store.base) / "dagster_home" if store.is_local else Path(".dagster")).resolve()


def prepare_home(store: Store) -> Path:
    """Create Dagster's home with its `dagster.yaml`, for this process and its children. Returns the folder."""
    home = dagster_home(store)
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if not config.exists() or config.read_text(encoding="utf-8").startswith(_OURS):
        text = _OURS + _TEMPLATE.read_text(encoding="utf-8") + (_POSTGRES if os.environ.get(POSTGRES_URL) else "")
        temp = config.with_suffix(f".{os.getpid()}")
        temp.write_text(text, encoding="utf-8")
        temp.replace(config)
    postgres = os.environ.get(POSTGRES_URL, "")
    if postgres.startswith("postgresql://"):
        # SQLAlchemy 2.1 reads this as psycopg 3, for which Dagster's storage is not written.
        os.environ[POSTGRES_URL] = postgres.replace("postgresql://", "postgresql+psycopg2://", 1)
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["TBRM_ROOT"] = str(Path(store.base).resolve()) if store.is_local else store.root
    return home


def open_instance(store: Store) -> DagsterInstance:
    """The Dagster instance that belongs to a store root; a context manager. Its tables are made when there are none."""
    home = prepare_home(store)
    # Dagster makes its tables without a lock: two runs that start at once on an empty database make each other fail.
    with _alone(home):
        return DagsterInstance.from_config(str(home))


@contextlib.contextmanager
def storage_errors(home: Path) -> Generator[None]:
    """Say in words why Dagster's database fails in the block: TbrmError for a full disk, a lost server and the like."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        where = "TBRM_POSTGRES_URL" if POSTGRES_URL in os.environ else str(home)
        room = shutil.disk_usage(home).free if home.is_dir() else _LITTLE_ROOM
        reason = os.strerror(errno.ENOSPC).lower() if room < _LITTLE_ROOM else str(error.orig).strip()
        raise TbrmError(
            f"Dagster's history in {where} cannot be written: {reason}. Correct that and run the same command again: "
            "what is finished is kept"
        ) from error


@contextlib.contextmanager
def _alone(home: Path) -> Generator[None]:
    """Wait until no other process opens an instance on this storage."""
    if POSTGRES_URL in os.environ:
        from sqlalchemy import create_engine, func, select
        from sqlalchemy.pool import NullPool

        with create_engine(os.environ[POSTGRES_URL], poolclass=NullPool).begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(_TABLES_LOCK)))
            yield
    else:
        with locked(str(home / "_opening")):
            yield
