"""The worker's side: it starts the processes that grade, and takes their labels as text.

A worker imports verifiers and forks; it never reads a response itself, so nothing that a response does to the process
that grades it reaches the pipe to the parent, over which pickles travel. Rows of verifiers that run no code share one
grading process, which keeps what sympy has cached. A row whose verifier runs code has a process of its own, and all
that it started, and its scratch folder's files, go with it: it cannot change the verdict on another row.

The limits do not rely on Python code getting a turn: `9**9**9` never returns to the interpreter, so neither an alarm
handler nor a thread would run. See `grading` for those of processor time and memory; the wall clock is
kept here.
"""

import contextlib
import functools
import gc
import mmap
import os
import resource
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pipeline.rewards.types import RewardLabel, Verifier
from pipeline.rewards.verifiers import get_verifier
from pipeline.rewards.workers import grading
from pipeline.rewards.workers.grading import Batch, Limits, Work
from pipeline.sandbox import Protections, confine_worker

LONGEST_LINE = 16 * 2**20
"""Bytes of one label. Most are 100; 700,000 token rewards reach it."""
MOST_DESCRIPTORS = 1_024
"""Open files of a worker. A grading process has fewer."""
BATCHES_PER_PROCESS = 400
"""Batches after which a grading process is replaced, so that what sympy caches and leaks stays bounded."""
WHOLE_BATCH = 2.0
"""A batch may take so many times the wall-clock limit of one row; what is left of it then is graded row by row."""


@dataclass(frozen=True)
class Graded:
    """Labels of a batch in order, None for rows to be graded again, each alone. `protections` of the process."""

    labels: list[RewardLabel | None]
    protections: Protections


@dataclass
class _Worker:
    """What a worker process has; `start_worker` makes it, once."""

    protections: Protections
    memory_mb: int
    scratch: str
    confined: bool
    shared: "_GradingProcess | None" = None


_here: _Worker | None = None


def start_worker(memory_mb: int, folder: str, confined: bool = True) -> None:
    """Runs once in each new worker. `folder` holds the scratch folders of all workers."""
    global _here
    # Default action, so that a stop takes effect at once even inside C code.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_descriptors()
    scratch = tempfile.mkdtemp(dir=folder)
    protections = confine_worker(scratch) if confined else Protections()
    _here = _Worker(protections, memory_mb, scratch, confined)
    if protections.namespaces:
        _start_first_process()


def _limit_descriptors() -> None:
    """Keep the numbers of open files small: a grading process closes what it inherits by counting them through."""
    listed = Path("/proc/self/fd")
    opened = [int(path.name) for path in listed.iterdir()] if listed.is_dir() else []
    limit = max([MOST_DESCRIPTORS, *(number + 1 for number in opened)])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def _start_first_process() -> None:
    """The first process of the new namespace. It ends when this one does; the kernel then kills all others there."""
    reader, _ = os.pipe()  # nothing is ever written: the other end closes with this process
    if os.fork() == 0:
        grading.close_all_but(reader)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans become its children
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)


@functools.cache
def ready(name: str) -> Verifier:
    """The verifier, imported and prepared: once a worker, and on no row's budget of processor seconds."""
    verifier = get_verifier(name)
    with Sendable():
        verifier.prepare()
    gc.freeze()  # the collector of a forked process leaves these pages alone, so they stay shared
    return verifier


def grade_batch(batch: Batch) -> Graded:
    """Grade rows one after the other, each with its own budget of processor seconds and of wall time."""
    here = _here
    assert here is not None, "start_worker runs first"
    new = [ready(name) for name in batch.verifiers]
    if here.confined and not any(verifier.runs_code for verifier in new):
        return Graded(_together(here, batch), here.protections)
    rows, limits = grading.unpack(batch.line)
    if not here.confined:
        return Graded([grading.grade_row(row, limits) for row in rows], here.protections)
    return Graded(_each_alone(here, rows, limits), here.protections)


def _together(here: _Worker, batch: Batch) -> list[RewardLabel | None]:
    """Rows that share the grading process. One that ends it gets its label, if it was alone; the rest is left over."""
    alone = batch.rows == 1
    verifiers = frozenset(batch.verifiers)
    for last in (False, True):
        process = here.shared
        if process is None or alone or process.served >= BATCHES_PER_PROCESS or not verifiers <= process.verifiers:
            _replace(here, verifiers | (process.verifiers if process else frozenset()))
            process = here.shared
            assert process is not None
        labels, end = process.grade(batch.rows, batch.limits, batch.line)
        if end is None:
            return list(labels)
        _end_shared(here)
        if not alone:
            return [*labels, *(None for _ in range(len(labels), batch.rows))]
        if end.status != -signal.SIGKILL or last:
            return [end.label(batch.limits)]
        # Somebody killed it: an operator, or the system for its memory. The second time it is the row.
    raise AssertionError("not reached")


def _each_alone(here: _Worker, rows: Sequence[Work], limits: Limits) -> list[RewardLabel | None]:
    started = time.monotonic()
    labels: list[RewardLabel | None] = []
    for row in rows:
        if labels and time.monotonic() - started > WHOLE_BATCH * limits.timeout_s:
            labels.append(None)
            continue
        label = end = None
        for _ in range(2):
            label, end = _in_own_process(here, row, limits)
            if end is None or end.status != -signal.SIGKILL:
                break
        labels.append(label if end is None else end.label(limits))
    return labels


def _in_own_process(here: _Worker, row: Work, limits: Limits) -> tuple[RewardLabel | None, "_End | None"]:
    """The label of a row whose verifier may run anything. Nothing that it ran or wrote is left afterwards."""
    process = _GradingProcess(here, frozenset((row.verifier,)), row, limits)
    try:
        labels, end = process.grade(1, limits)
        return (labels[0] if labels else None), end
    finally:
        process.close()
        _empty(here.scratch)


def _replace(here: _Worker, verifiers: frozenset[str]) -> None:
    _end_shared(here)
    here.shared = _GradingProcess(here, verifiers)


def _end_shared(here: _Worker) -> None:
    if here.shared is not None:
        here.shared.close()
        here.shared = None


@dataclass(frozen=True)
class _End:
    """How a grading process ended without a label: its exit code, or None where the wall clock ended it."""

    status: int | None

    def label(self, limits: Limits) -> RewardLabel:
        if self.status is None:
            return RewardLabel(0.0, "timeout", None, f"more than {limits.timeout_s:g} s of wall time")
        if self.status == -signal.SIGPROF:
            return RewardLabel(0.0, "timeout", None, f"more than {limits.cpu_s:g} s of processor time")
        if self.status in (grading.EXIT_MEMORY, -signal.SIGABRT, -signal.SIGKILL):
            # GMP aborts when it gets no memory; the system's own killer uses SIGKILL.
            return RewardLabel(0.0, "memory", None, "the memory limit was reached")
        return RewardLabel(0.0, "error", None, f"the grading process ended with exit code {self.status}")


class _GradingProcess:
    """A fork of this worker that grades: one row that it was born with, or batches that it is asked."""

    def __init__(
        self, here: _Worker, verifiers: frozenset[str], row: Work | None = None, limits: Limits | None = None
    ) -> None:
        self.verifiers, self.served, self.here = verifiers, 0, here
        self.row = mmap.mmap(-1, mmap.PAGESIZE)
        """Memory shared with the process, which writes the number of its row there: the row to blame when it ends."""
        asked, self._ask = os.pipe()
        self._answers, answer = os.pipe()
        self._rest = bytearray()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._ask)
            os.close(self._answers)
            place = grading.Place(asked, answer, self.row, here.protections, here.scratch, here.memory_mb)
            grading.run(place, row, limits)
        os.close(asked)
        os.close(answer)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)  # both sides do it, whoever comes first

    def grade(self, rows: int, limits: Limits, request: bytes = b"") -> tuple[list[RewardLabel], _End | None]:
        """Labels as far as they came, and how the process ended if it did. No `request`: it was born with its row."""
        self.served += 1
        self.row[0:4] = bytes(4)
        labels: list[RewardLabel] = []
        try:
            _write(self._ask, request)
        except BrokenPipeError:
            return labels, _End(self._wait())
        at, deadline = 0, time.monotonic() + limits.timeout_s
        last = time.monotonic() + WHOLE_BATCH * limits.timeout_s
        while len(labels) < rows:
            found = self._lines(min(deadline, last) - time.monotonic())
            if found is None:
                return labels, _End(self._wait())
            labels += [grading.decode_label(line) for line in found[: rows - len(labels)]]
            now, number = time.monotonic(), int.from_bytes(self.row[0:4], "little")
            if number != at:
                at, deadline = number, now + limits.timeout_s
            if now >= min(deadline, last) and len(labels) < rows:
                return labels, _End(None)
        return labels, None

    def _lines(self, seconds: float) -> list[bytes] | None:
        """The whole lines that came in time, perhaps none; None when no more will come."""
        ready_, _, _ = select.select([self._answers], [], [], max(seconds, 0.0))
        if not ready_:
            return []
        data = os.read(self._answers, 2**16)
        if not data or len(self._rest) > LONGEST_LINE:
            return None
        first, newline, further = data.partition(b"\n")
        self._rest += first
        if not newline:
            return []
        *lines, rest = further.split(b"\n")
        lines, self._rest = [bytes(self._rest), *lines], bytearray(rest)
        return lines

    def _wait(self) -> int:
        """The exit code of a process that has closed its pipe; 255 for one that did so and lives on."""
        for _ in range(100):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        return 255

    def close(self) -> None:
        """Kill the process and all that it started."""
        if self.pid:
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._ask)
        os.close(self._answers)
        self.row.close()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _empty(folder: str) -> None:
    """Remove what a row left in the scratch folder."""
    with os.scandir(folder) as entries:
        left = [Path(entry.path) for entry in entries]
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, onerror=_unlock)
        else:
            path.unlink(missing_ok=True)


def _unlock(function: object, path: str, error: object) -> None:
    del function, error
    for place in (Path(path).parent, Path(path)):
        with contextlib.suppress(OSError):
            place.chmod(0o700)
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


class VerifierError(Exception):
    """What a verifier raised, as text."""


class Sendable:
    """Whatever a verifier raises leaves as a VerifierError: an exception class of its own may not survive the pipe."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            raise VerifierError(f"{kind.__name__}: {error}"[:500]) from None
