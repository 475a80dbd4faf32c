"""Where the process of a stage runs. A launcher owns the whole process tree of a stage until it has ended."""

import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dagster import ConfigurableResource
from pydantic import Field

from assets.processes.warm_start import stage_environment, start_warm

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_TAIL_LINES = 40
Say = Callable[[str], None]


@dataclass(frozen=True)
class Process:
    """What a launcher runs: the command of a stage, and what it is given."""

    command: Sequence[str]
    log: Path
    """File that keeps its output."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variables that are set over those of our environment."""
    workers: int = 1
    """Equal workers that the command starts on its machine: they share the cores."""
    grace_s: float = 0.0
    """Seconds that the command needs to save what it has and to end the processes it started. When the stage is ended
    from outside, the command alone is sent SIGTERM and gets this time. With 0 every process is sent SIGTERM, and gets
    the launcher's own time."""
    say: Say = lambda _text: None
    """Is told when the stage is being ended."""


@dataclass(frozen=True)
class Ended:
    """How a stage's process ended: `code` as a shell reports it (128 + n for signal n), its last lines, its log."""

    code: int
    tail: tuple[str, ...]
    log: Path

    @property
    def killed(self) -> bool:
        """Whether a signal ended it, as when memory runs out or a machine is lost. Trying again may help."""
        return 128 < self.code <= 128 + signal.SIGRTMAX


class Launcher(ConfigurableResource[Any], ABC):
    """Runs the process of a stage to its end, on this machine or as a job of a cluster.

    `run` returns when no process of the stage is left. When an exception interrupts it, it first ends all of them.
    """

    @abstractmethod
    def run(self, process: Process) -> Ended:
        """Run a stage to its end."""


class LocalLauncher(Launcher):
    """On this machine, under a supervisor process that outlives neither the stage nor the caller."""

    threads: int = Field(
        default=0, ge=0, description="OMP_NUM_THREADS of each worker; 0: the usable cores divided by workers."
    )
    grace_s: float = Field(default=10.0, gt=0, description="Seconds between SIGTERM and SIGKILL when a stage is ended.")

    def run(self, process: Process) -> Ended:
        environment = {**stage_environment(os.environ, process.workers, self.threads), **process.env}
        return follow(process, environment, max(self.grace_s, process.grace_s), child_first=process.grace_s > 0)


def follow(
    process: Process,
    environment: Mapping[str, str],
    grace_s: float,
    child_first: bool,
    take: Callable[[bytes], bool] = lambda _line: False,
) -> Ended:
    """Run a process under the supervisor, in this whole `environment`; its output goes to the log and to our stdout.

    Lines for which `take` is true are left out of the output. When an exception interrupts this function, it first ends
    the whole tree, within `grace_s`; with `child_first` only the command itself is asked, which ends what it started.
    """
    options = (process.command, grace_s, environment)
    process.log.parent.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    try:
        started = start_warm(*options, write_end, child_first)
        stage, our_end = started or start_supervised(*options, write_end, child_first)
    finally:
        os.close(write_end)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    reader = threading.Thread(target=_keep, args=(os.fdopen(read_end, "rb"), process.log, tail, take), daemon=True)
    reader.start()
    ended_by_itself = False
    try:
        code = stage.wait()
        ended_by_itself = True
    finally:
        # Closing the pipe makes the supervisor end the tree; after a normal end it changes nothing.
        os.close(our_end)
        if not ended_by_itself:
            process.say(f"the stage is being ended: it has up to {grace_s:g} s to end its work and save what it has")
        stage.wait()
        reader.join(timeout=5.0)
    return Ended(code if code >= 0 else 128 - code, tuple(tail), process.log)


def start_supervised(
    command: Sequence[str],
    grace_s: float,
    env: Mapping[str, str],
    output: IO[bytes] | int | None,
    child_first: bool = False,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start `command` under the supervisor; returns its process, and a file descriptor that holds it alive.

    Its output goes to `output`; None: to where ours goes. When that descriptor is closed, or this process ends, the
    supervisor ends the whole tree: by SIGTERM, and by SIGKILL after `grace_s`.
    """
    options = ["--child-first"] if child_first else []
    caller_end, our_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_SUPERVISOR), str(caller_end), str(grace_s), *options, *command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
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
