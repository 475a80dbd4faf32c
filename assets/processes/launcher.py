"""Where a stage's process runs. A launcher owns the whole process tree of a stage until it has ended."""

import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dagster import ConfigurableResource
from pydantic import Field

from assets.processes.warm_start import UNBUFFERED, start_warm
from pipeline.run.threads import thread_settings

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_TAIL_LINES = 40
Say = Callable[[str], None]


def nothing(_text: str) -> None:
    """Said to nobody."""


@dataclass(frozen=True)
class Ended:
    """How a stage's process ended: `code` as a shell reports it (128 + n for signal n), its last lines, its log."""

    code: int
    tail: tuple[str, ...]
    log: Path

    @property
    def killed(self) -> bool:
        """Ended by a signal it did not ask for: out of memory, a lost node. Trying again may help."""
        return 128 < self.code <= 128 + signal.SIGRTMAX


class Launcher(ConfigurableResource[Any], ABC):
    """Runs one stage command to its end. A cluster's launcher submits a job and follows it; the contract is the same:

    `run` returns when no process of the stage is left; interrupted by any exception it first ends all of them.
    """

    @abstractmethod
    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        processes: int = 1,
        grace_s: float = 0.0,
        say: Say = nothing,
    ) -> Ended:
        """Run `command` with `env` added to the environment, its output kept in `log`.

        `processes` says how many equal workers the command will start on this machine (it divides the cores). Ended
        from outside all its processes get SIGTERM, and the launcher's own time to end. With `grace_s` the first of them
        alone gets it, with so much time to save what it has and end the others. `say` is told so.
        """


class LocalLauncher(Launcher):
    """On this machine, under a supervisor process that outlives neither the stage nor the caller."""

    threads: int = Field(
        default=0, ge=0, description="OMP_NUM_THREADS of each worker; 0: the usable cores divided by workers."
    )
    grace_s: float = Field(default=10.0, gt=0, description="Seconds between SIGTERM and SIGKILL when a stage is ended.")

    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        processes: int = 1,
        grace_s: float = 0.0,
        say: Say = nothing,
    ) -> Ended:
        settings = {**thread_settings(processes, self.threads), **env}
        return follow(command, max(self.grace_s, grace_s), settings, log, say=say, child_first=grace_s > 0)


def follow(
    command: Sequence[str],
    grace_s: float,
    env: Mapping[str, str],
    log: Path,
    take: Callable[[bytes], bool] = lambda _line: False,
    say: Say = nothing,
    child_first: bool = False,
) -> Ended:
    """Run `command` under the supervisor to its end, with `env` over our environment; output to `log` and to stdout.

    Lines for which `take` is true are not output. Interrupted by any exception it first ends the whole tree; with
    `child_first` only the command itself is asked, which ends what it has started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **UNBUFFERED, **env}
    read_end, write_end = os.pipe()
    try:
        started = start_warm(command, grace_s, environment, write_end, child_first)
        process, our_end = started or start_supervised(command, grace_s, environment, write_end, child_first)
    finally:
        os.close(write_end)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    reader = threading.Thread(target=_keep, args=(os.fdopen(read_end, "rb"), log, tail, take), daemon=True)
    reader.start()
    ended_by_itself = False
    try:
        code = process.wait()
        ended_by_itself = True
    finally:
        # Closing the pipe makes the supervisor end the tree; after a normal end it changes nothing.
        os.close(our_end)
        if not ended_by_itself:
            say(f"the stage is being ended: it has up to {grace_s:g} s to end its work and save what it has")
        process.wait()
        reader.join(timeout=5.0)
    return Ended(code if code >= 0 else 128 - code, tuple(tail), log)


def start_supervised(
    command: Sequence[str],
    grace_s: float,
    env: Mapping[str, str],
    stdout: IO[bytes] | int,
    child_first: bool = False,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start `command` under the supervisor; returns its process, and a file descriptor that holds it alive.

    Closing that descriptor, or the end of this process, ends the whole tree: SIGTERM, after `grace_s` SIGKILL.
    """
    options = ["--child-first"] if child_first else []
    caller_end, our_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_SUPERVISOR), str(caller_end), str(grace_s), *options, *command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        pass_fds=(caller_end,),
        start_new_session=True,
    )
    os.close(caller_end)
    return process, our_end


def _keep(stream: IO[bytes], log: Path, tail: deque[str], take: Callable[[bytes], bool]) -> None:
    """Copy a stage's output to its log and to our stdout, which Dagster captures and shows beside the run."""
    with stream, log.open("ab") as file:
        for line in stream:
            if take(line):
                continue
            file.write(line)
            file.flush()
            text = line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
            tail.append(text)
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
