"""Dagster's history in Postgres: two experiments at once, against a real server that the test starts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRunStatus

from assets.app.instance import POSTGRES_URL, open_instance
from benchmarks.unattended import unattended
from pipeline.store import open_store
from tests.support.postgres_server import postgres_server, why_no_postgres
from tests.support.tiny import finish, tbrm, write_tiny

pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed: pip install -e '.[postgres]'")


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """URL of an empty database of a server that lives as long as the test."""
    if reason := why_no_postgres():
        pytest.skip(reason)
    with postgres_server() as url:
        yield url


EIGHT_AT_ONCE = """
import os
from assets.app.instance import open_instance
from pipeline.store import open_store
children = []
for _ in range(8):
    if not (child := os.fork()):
        with open_instance(open_store("data")) as instance:
            os._exit(len(instance.get_runs()))
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


@pytest.mark.usefixtures("no_dagster_home")
@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_an_empty_database_opened_by_many_at_once(tmp_path: Path, database: str, postgres_url: str) -> None:
    env = {**os.environ, POSTGRES_URL: postgres_url} if database == "postgres" else dict(os.environ)
    command = [sys.executable, "-c", EIGHT_AT_ONCE]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert done.stdout.strip() == str([0] * 8), done.stderr


@pytest.mark.usefixtures("no_dagster_home")
def test_two_experiments_at_once(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POSTGRES_URL, postgres_url)
    for name in ("one", "two"):
        write_tiny(tmp_path, generations=1, name=name)
    runs = [tbrm(tmp_path, "run", name) for name in ("one", "two")]
    outputs = [finish(run) for run in runs]
    assert not any("lock" in output.lower() for output in outputs)
    home = tmp_path / "data" / "dagster_home"
    assert not list(home.rglob("*.db")), "nothing is left in SQLite"
    assert postgres_url not in (home / "dagster.yaml").read_text()
    with open_instance(open_store(str(tmp_path / "data"))) as instance:
        statuses = [run.status for run in instance.get_runs()]
        assert statuses == [DagsterRunStatus.SUCCESS] * 4
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0


@pytest.mark.usefixtures("no_dagster_home")
def test_two_experiments_by_their_sensors(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short form of `python -m benchmarks.unattended`."""
    monkeypatch.setenv(POSTGRES_URL, postgres_url)
    seen = unattended(tmp_path, generations=2, timeout_s=700)
    assert seen["generations_in_order"] == {"one": True, "two": True}
    assert seen["most_pooled_steps_at_once"] == 1
    for nothing in ("lock_errors_in_server_logs", "lock_errors_in_run_logs", "steps_restarted"):
        assert seen[nothing] == 0
    assert seen["claimed_slots_left"] == seen["processes_left"] == 0
