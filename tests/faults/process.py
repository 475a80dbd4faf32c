"""Forks of a process that has imported everything: a trial starts in milliseconds, with the libraries' real code."""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from assets.processes.supervisor import descendants

_PR_SET_CHILD_SUBREAPER = 36


def become_warm() -> None:
    """Import what stages import, and inherit every process that a trial leaves behind."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import deepspeed  # noqa: F401  # pyright: ignore
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401  # pyright: ignore

    torch.set_num_threads(1)
    _inherit_orphans(True)


def _inherit_orphans(flag: bool) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(flag), 0, 0, 0)


@contextlib.contextmanager
def starting_a_daemon() -> Generator[None]:
    """What detaches itself meanwhile is meant to, and is nobody's orphan."""
    _inherit_orphans(False)
    try:
        yield
    finally:
        _inherit_orphans(True)


def import_all(names: Iterable[str]) -> None:
    """Import here what a run imported on its way, so that the next one need not."""
    for name in names:
        if name not in sys.modules and not name.startswith("__"):
            with contextlib.suppress(ImportError, AttributeError, NameError, RuntimeError):
                importlib.import_module(name)


class Child:
    """A fork that runs `work(announce)` in a session of its own. `folder` keeps its log, its stages and its error."""

    def __init__(self, folder: Path, work: Callable[[Callable[[str], None]], object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self.stages, self.error = folder / "log", folder / "stages", folder / "error"
        for path in (self.log, self.stages, self.error):
            path.write_text("", encoding="utf-8")
            path.chmod(0o666)  # a trial may run as somebody else
        self.code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(work)

    def _run(self, work: Callable[[Callable[[str], None]], object]) -> None:
        code = 70
        try:
            os.setsid()
            tempfile.tempdir = str(self.log.parent)  # what a killed process leaves there goes with the trial
            log = os.open(self.log, os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            work(self._announce)
            code = 0
        except BaseException as error:  # noqa: BLE001 - it is the child's last act
            self.error.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
            traceback.print_exc()
            code = 1
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)

    def _announce(self, stage: str) -> None:
        with self.stages.open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic()} {stage}\n")

    def times(self) -> dict[str, float]:
        """When each stage was begun, by the clock of this machine."""
        lines = (line.split(" ", 1) for line in self.stages.read_text(encoding="utf-8").splitlines())
        return {stage: float(at) for at, stage in lines}

    def poll(self) -> int | None:
        """Exit status when it has ended, negative for a signal."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, timeout_s: float = 240.0) -> int:
        """Its exit status. Raises TimeoutError, and kills it, when it does not end."""
        deadline = time.monotonic() + timeout_s
        while self.poll() is None:
            if time.monotonic() > deadline:
                tree = [*descendants(self.pid), self.pid]
                for pid in tree:
                    send(pid, signal.SIGKILL)
                raise TimeoutError(f"the run did not end within {timeout_s:g} s: {self.log.read_text()[-1500:]}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def wait_for(self, stage: str, delay_s: float) -> bool:
        """Wait until `delay_s` after it has begun `stage`; False when it ended before."""
        while stage not in self.times():
            if self.poll() is not None:
                return False
            time.sleep(0.003)
        time.sleep(delay_s)
        return self.poll() is None

    def freeze(self) -> None:
        """Stop the process itself, not its workers, until `thaw`."""
        send(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        send(self.pid, signal.SIGCONT)

    def message(self) -> str:
        """What a user would read: the error, else the last lines."""
        return self.error.read_text(encoding="utf-8") or self.log.read_text(errors="replace")[-800:]


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def in_child(folder: Path, work: Callable[[], Any]) -> Any:
    """What `work` returns (JSON), computed in a fork: this process starts no thread that a later fork would lack."""
    answer = folder / "answer.json"
    child = Child(folder, lambda _: answer.write_text(json.dumps(work()), encoding="utf-8"))
    if child.wait():
        raise RuntimeError(child.message() + child.log.read_text(errors="replace")[-3000:])
    return json.loads(answer.read_text(encoding="utf-8"))


def orphans(known: Sequence[int], within_s: float = 10.0) -> list[str]:
    """Commands of processes that are still there `within_s` after a trial, and are ended then."""
    deadline = time.monotonic() + within_s
    while left := _left(known):
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    commands = [command_line(pid)[:200] for pid in left]
    for pid in left:
        send(pid, signal.SIGKILL)
    return commands


def _left(known: Sequence[int]) -> list[int]:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    kept = {*known, *(pid for root in known for pid in descendants(root))}
    return [pid for pid in descendants(os.getpid()) if pid not in kept]


def command_line(pid: int) -> str:
    """What it was started with, as far as it still is there."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return str(pid)
