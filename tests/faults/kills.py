"""Processes that end: by signals from outside, at a durable call from inside, for want of memory; two at once."""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from unittest import mock

from assets.processes.supervisor import descendants
from tests.faults.process import Child, send
from tests.faults.trial import TooLate, Trial

DURABLE = ("link", "fsync", "rename", "replace", "unlink", "remove", "mkdir", "rmdir")
"""Calls of `os` that the promises about files rest on."""


@contextlib.contextmanager
def counted(report: Path | None = None, kill_at: int | None = None) -> Generator[None]:
    """Count the durable calls made inside, into `report`; before call `kill_at` the process kills itself."""
    calls = 0

    def watched(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return call(*args, **kwargs)

        return wrapped

    with mock.patch.multiple(os, **{name: watched(getattr(os, name)) for name in DURABLE}):
        yield
    if report is not None:
        report.write_text(str(calls), encoding="utf-8")


def kill_stage(trial: Trial) -> None:
    """SIGKILL to the process that runs the stages (sampler, scorer and trainer are in it)."""
    child = trial.strike(lambda child: send(child.pid, signal.SIGKILL))
    trial.named(child, "$^", [signal.SIGKILL])
    trial.resume()


def terminate_stage(trial: Trial) -> None:
    """SIGTERM to the same."""
    child = trial.strike(lambda child: send(child.pid, signal.SIGTERM))
    trial.named(child, "was stopped after update", [signal.SIGTERM])
    trial.resume()


def kill_at_call(trial: Trial) -> None:
    """SIGKILL right before a random one of the calls that make, name and remove files."""
    number = trial.rng.randrange(trial.whole.calls)
    trial.outcome.instant = f"before durable call {number} of {trial.whole.calls}"

    def work(announce: Callable[[str], None]) -> None:
        trial.prepare()
        with counted(kill_at=number):
            trial.work()(announce)

    child = Child(trial.folder / "disturbed", work)
    child.wait()
    trial.note_committed()
    trial.ended(child)
    trial.named(child, "$^", [signal.SIGKILL])
    trial.resume()


def kill_worker(trial: Trial) -> None:
    """SIGKILL to a verifier process, or to the server that forks them."""
    _worker(trial, signal.SIGKILL)


def terminate_worker(trial: Trial) -> None:
    """SIGTERM to a verifier process, or to the server that forks them."""
    _worker(trial, signal.SIGTERM)


def _worker(trial: Trial, number: int) -> None:
    child = Child(trial.folder / "disturbed", trial.work())
    stage, delay = trial.instant(["rewards"])
    child.wait_for(stage, delay)
    while child.poll() is None:
        served = _workers(child.pid)
        server, workers = (served[0], served[1:]) if served else (0, [])
        if workers:
            victim = trial.rng.choice(workers if trial.rng.random() < 0.8 else [server])
            child.freeze()
            trial.note_committed()
            trial.outcome.detail = "the fork server" if victim == server else f"one of {len(workers)} workers"
            send(victim, number)
            child.thaw()
            break
        time.sleep(0.002)
    else:
        raise TooLate
    child.wait()
    trial.ended(child)
    trial.named(child, "verifier workers die")
    trial.resume()


def _workers(pid: int) -> list[int]:
    """The fork server of a process, then its workers."""
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            if b"multiprocessing.forkserver" in Path(f"/proc/{child}/cmdline").read_bytes():
                return [child, *descendants(child)]
    return []


def out_of_memory(trial: Trial) -> None:
    """The process gets no more address space than it has, and up to 24 MiB."""
    extra = trial.rng.randrange(24 * 2**20)
    trial.outcome.detail = f"{extra / 2**20:.1f} MiB left"

    def inject(child: Child) -> None:
        pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + extra
        resource.prlimit(child.pid, resource.RLIMIT_AS, (limit, limit))

    child = trial.strike(inject)
    trial.named(child, r"(?i)memory|alloc|can't start new thread|\[Errno 12\]")
    trial.resume()


def two_at_once(trial: Trial) -> None:
    """A second loop over the same store, started while the first one runs."""
    seconds: list[Child] = []

    def inject(_child: Child) -> None:
        seconds.append(Child(trial.folder / "second", trial.work()))

    first = trial.strike(inject)
    second = seconds[0]
    second.wait()
    for child in (first, second):
        trial.outcome.names_cause = True
        trial.named(child, "is being written by|was committed by another writer")
        if not trial.outcome.names_cause:
            trial.outcome.message = child.message()[-600:]
            break
    trial.outcome.detail = f"first: exit status {first.wait()}, second: {second.wait()}; {second.message()[-300:]}"
    trial.resume()
