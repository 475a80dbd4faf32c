"""Servers that a run leans on: the Dagster daemon is killed, Postgres is restarted."""

import contextlib
import os
import pwd
import signal
import subprocess
import time

import psycopg2

from assets.app.instance import POSTGRES_URL
from assets.processes.supervisor import descendants
from tests.faults.experiment import NAME
from tests.faults.orchestrated import LAST, Command, finish, go_on, start_from_template
from tests.faults.process import command_line, send, starting_a_daemon
from tests.faults.trial import Trial
from tests.support.postgres_server import postgres_server
from tests.support.served_ui import served

_ASSETS = ("rollouts", "rewards", "ref_logprobs", "trained_policy")


def end_daemon(trial: Trial) -> None:
    """SIGKILL or SIGTERM to the daemon of `tbrm ui`, while a run that was asked for in the UI is queued or at work.

    The UI is then started again, and must bring that run to an end in its history.
    """
    start_from_template(trial)
    number = trial.rng.choice([signal.SIGKILL, signal.SIGTERM])
    delay = trial.rng.uniform(0.0, 25.0)
    trial.outcome.instant = f"{delay:.3f} s after generation {LAST} was asked for"
    with served(trial.folder / "data", trial.folder) as ui:
        run = ui.launch(f"{NAME}_generation", [[NAME, name] for name in _ASSETS], f"{LAST:04d}")
        time.sleep(delay)
        trial.note_committed()
        daemons = [pid for pid in descendants(ui.process.pid) if "-m dagster._daemon run" in command_line(pid)]
        for pid in daemons[:1]:
            send(pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):  # after SIGTERM the daemon's process stays, doing nothing
            ui.process.wait(timeout=40)
        ended = ui.process.poll()
    text = (trial.folder / "ui.log").read_text(errors="replace")
    trial.outcome.ended = "served on" if ended is None else f"exit status {ended}"
    said = [line for line in text.splitlines() if "shut down unexpectedly" in line or "Received interrupt" in line]
    trial.outcome.names_cause = bool(said)
    trial.outcome.message = said[-1] if said else text[-500:]
    with served(trial.folder / "data", trial.folder) as ui:
        status = ui.wait(run, timeout_s=180.0)
    trial.outcome.detail = f"{number.name} to {len(daemons[:1])} daemon; the run under the next one: {status}"
    go_on(trial)


def restart_postgres(trial: Trial) -> None:
    """Postgres, which keeps Dagster's history, is stopped at once and started again."""
    start_from_template(trial)
    delay = trial.rng.uniform(2.0, 60.0)
    trial.outcome.instant = f"{delay:.3f} s after the start of `tbrm run`"
    with contextlib.ExitStack() as stack:
        with starting_a_daemon():
            url = stack.enter_context(postgres_server())
        env = {POSTGRES_URL: url}
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("show data_directory")
            found = cursor.fetchone()
        connection.close()
        assert found is not None
        command = Command(trial.folder, "run", NAME, env=env)
        time.sleep(delay)
        trial.note_committed()
        owner = pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else os.getuid()
        trial.outcome.detail = "pg_ctl -m immediate restart"
        with starting_a_daemon():
            subprocess.run(
                ["pg_ctl", "-D", found[0], "-m", "immediate", "-w", "-l", f"{found[0]}/../log", "restart"],
                cwd=found[0],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                user=owner,
            )
        finish(trial, command, "(?i)server closed|connection|terminat|psycopg2|OperationalError", env)
