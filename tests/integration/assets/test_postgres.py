"""Dagster's history in Postgres: two experiments at once, against a real server that the test starts."""

import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRunStatus

from assets.instance import POSTGRES_URL, open_instance
from pipeline.store import open_store
from tests.e2e.served_ui import free_port
from tests.integration.assets.tiny import finish, tbrm, write_tiny

pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed: pip install -e '.[postgres]'")


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    """URL of an empty database of a server that lives as long as the module's tests."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("no Postgres server here: initdb and pg_ctl are not on the path")
    # Postgres refuses to run as root, and cannot enter pytest's temporary folders as anybody else.
    owner = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    with tempfile.TemporaryDirectory(prefix="tbrm-postgres-") as folder:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
        run = functools.partial(subprocess.run, cwd=folder, **as_owner)
        data, port = Path(folder) / "data", free_port()
        initdb = ["initdb", "-D", str(data), "-U", "tbrm", "--auth=trust", "--no-sync"]
        made = run(initdb, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        # With a log file: the server would hold a pipe of ours open for ever.
        start = ["pg_ctl", "-D", str(data), "-w", "-l", f"{folder}/log", "-o", options, "start"]
        run(start, check=True, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql://tbrm@127.0.0.1:{port}/postgres"
        finally:
            run(["pg_ctl", "-D", str(data), "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL)


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
