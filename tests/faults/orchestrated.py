"""Faults in the whole machine: `tbrm run` under Dagster, its launchers and stages, the daemon, and Postgres.

A trial starts from a copy of two finished generations and disturbs the third, so that it costs one generation. The
history in Dagster is copied as well.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from assets.processes.supervisor import descendants
from tests.faults.evidence import audit
from tests.faults.experiment import GENERATIONS, NAME, write_experiment
from tests.faults.process import command_line, in_child, orphans, send
from tests.faults.trial import TooLate, Trial, Whole

LAST = GENERATIONS - 1
_STAGES = ("rollouts", "rewards", "ref-logprobs", "train")
_STAGE_S = 8.0
"""About what a stage takes here, its start included."""
_ENV = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Command:
    """A `tbrm` command in a trial's folder, its output in a file."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.log = folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        surroundings = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "TBRM_ROOT")} | _ENV
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from pipeline.cli.main import main; main()", *arguments],
                cwd=folder,
                env=surroundings | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, timeout_s: float = 400.0) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            for pid in (*descendants(self.process.pid), self.process.pid):
                send(pid, signal.SIGKILL)
            self.process.wait()
            raise TimeoutError(f"tbrm did not end: {self.text()[-1500:]}") from None

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def find(self, *parts: str, without: str = "supervisor.py") -> list[int]:
        """Processes of its tree whose command line holds all `parts`, and not `without`."""
        lines = {pid: command_line(pid) for pid in descendants(self.process.pid)}
        return [
            pid
            for pid, line in lines.items()
            if all(part in line for part in parts) and not (without and without in line)
        ]

    def wait_for(self, *parts: str, without: str = "supervisor.py", timeout_s: float = 200.0) -> list[int]:
        """Its processes of that kind, as soon as there is one; none when it ended before."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.find(*parts, without=without)) and self.process.poll() is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        return found


def template(trial: Trial) -> Path:
    """A folder whose store and history hold all generations but the last; made once."""
    folder = trial.folder.parent / "template"
    if not folder.exists():
        path = write_experiment(folder)
        whole = path.read_text(encoding="utf-8")
        path.write_text(whole.replace(f"generations: {GENERATIONS}", f"generations: {LAST}"), encoding="utf-8")
        command = Command(folder, "run", NAME)
        if command.wait():
            raise RuntimeError(command.text()[-2000:])
        path.write_text(whole, encoding="utf-8")
    return folder


def start_from_template(trial: Trial) -> None:
    trial.outcome.how = "tbrm"
    shutil.copytree(template(trial), trial.folder, dirs_exist_ok=True)


def end_run(trial: Trial) -> None:
    """SIGKILL or SIGTERM to `tbrm run`, the process that executes the Dagster run."""
    _strike(trial, lambda command: [command.process.pid])


def end_launcher(trial: Trial) -> None:
    """SIGKILL or SIGTERM to the supervisor that launched the stage."""
    _strike(trial, lambda command: command.find("supervisor.py", "assets.processes.child", without=""))


def end_stage(trial: Trial) -> None:
    """SIGKILL or SIGTERM to the stage's process."""
    _strike(trial, lambda command: command.find("assets.processes.child"))


def end_rank(trial: Trial) -> None:
    """SIGKILL or SIGTERM to one of two training processes, or to the torchrun above them."""
    two = ("--set", "training.processes=2")
    trial.whole = Whole(_digest_of_two(trial, two), {})
    kind = trial.rng.choice(["trainer.loop.worker", "trainer.loop.worker", "trainer.launch.torchrun"])
    other = "trainer.launch.torchrun" if kind == "trainer.loop.worker" else "supervisor.py"

    def victims(command: Command) -> list[int]:
        command.wait_for(kind, without=other)
        time.sleep(trial.rng.uniform(0.0, _STAGE_S / 2))
        found = command.find(kind, without=other)
        trial.rng.shuffle(found)
        return found

    _strike(trial, victims, ["train"], two)


def two_runs(trial: Trial) -> None:
    """A second `tbrm run` of the same experiment while the first one is at work."""
    others: list[Command] = []

    def victims(_command: Command) -> list[int]:
        others.append(Command(trial.folder, "run", NAME))
        others[0].wait()
        return [others[0].process.pid]  # it has ended: the signal reaches nobody

    _strike(trial, victims)
    second = others[0]
    said = second.wait() == 0 or "is being written by process" in second.text()
    trial.outcome.names_cause = trial.outcome.names_cause and said
    trial.outcome.detail = f"the second: exit status {second.wait()}; {second.text()[-200:]}"


def _digest_of_two(trial: Trial, options: Sequence[str]) -> dict[str, str]:
    """What an undisturbed last generation trained by two processes ends with; made once."""
    folder = trial.folder.parent / "two-processes"
    kept = folder / "digest.json"
    if not kept.exists():
        shutil.copytree(template(trial), folder)
        command = Command(folder, "run", NAME, *options)
        if command.wait():
            raise RuntimeError(command.text()[-2000:])
        found = in_child(folder / "judged", partial(audit, str(folder / "data")))
        kept.write_text(json.dumps(found["digest"]), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def _strike(
    trial: Trial,
    victims: Callable[[Command], list[int]],
    stages: Sequence[str] = _STAGES,
    options: Sequence[str] = (),
) -> None:
    start_from_template(trial)
    number = trial.rng.choice([signal.SIGKILL, signal.SIGTERM])
    stage = trial.rng.choice(stages)
    delay = trial.rng.uniform(0.0, _STAGE_S)
    trial.outcome.instant = f"{delay:.3f} s after the start of {stage} {LAST}"
    command = Command(trial.folder, "run", NAME, *options)
    command.wait_for(f"assets.processes.child {stage} ")
    time.sleep(delay)
    trial.note_committed()
    while not (found := victims(command)[:1]) and command.process.poll() is None:
        time.sleep(0.01)
    if not found:
        command.wait()
        raise TooLate
    trial.outcome.detail = f"{number.name} to {len(found)} process"
    for pid in found:
        send(pid, number)
    pattern = rf"(?i)signal {number:d}|{number.name}|was stopped after update"
    finish(trial, command, pattern, options=options)


def finish(
    trial: Trial,
    command: Command,
    pattern: str,
    env: dict[str, str] | None = None,
    options: Sequence[str] = (),
) -> None:
    """Wait for the end of a disturbed run, look for orphans, and run again to the end."""
    code = command.wait()
    trial.outcome.ended = f"signal {-code}" if code < 0 else f"exit status {code}"
    trial.outcome.message = "" if code == 0 else re.sub(r"\s+", " ", command.text())[-500:]
    trial.outcome.names_cause = code <= 0 or re.search(pattern, command.text()) is not None
    go_on(trial, env, options)


def go_on(trial: Trial, env: dict[str, str] | None = None, options: Sequence[str] = ()) -> None:
    """Look for orphans, run to the end, and see that Dagster's history knows of nothing unfinished."""
    trial.outcome.orphans = orphans(trial.known, within_s=20.0)
    again = Command(trial.folder, "run", NAME, *options, env=env)
    trial.outcome.resumed = again.wait() == 0
    if not trial.outcome.resumed:
        trial.outcome.different = [f"the resumed run: {again.text()[-800:]}"]
    open_runs = _open_runs(trial, env)
    if open_runs != "[]":
        trial.outcome.resumed = False
        trial.outcome.different.append(f"Dagster's history holds open runs: {open_runs}")


def _open_runs(trial: Trial, env: dict[str, str] | None) -> str:
    code = (
        "import json; from assets.app.instance import open_instance; from pipeline.store import open_store\n"
        "with open_instance(open_store('data')) as i:\n"
        " print(json.dumps([r.status.value for r in i.get_runs() if not r.is_finished]))"
    )
    surroundings = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "TBRM_ROOT")} | _ENV
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=trial.folder,
        env=surroundings | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr[-500:]
