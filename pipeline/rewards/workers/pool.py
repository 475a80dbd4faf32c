"""A pool of verifier processes that can be killed at any moment without losing a row.

Pebble replaces dead workers and tells which task died with them; `worker` is what they do. Workers
come from a fork server, because

- plain fork would copy a process that may hold torch, CUDA or Ray threads, whose locks stay locked in the child;
- plain spawn imports sympy and Math-Verify anew for every worker, 0.5 s for each one that was killed.

The fork server is a fresh process without threads that imports Math-Verify and builds its parser once; a worker is its
fork, ready in milliseconds.
"""

import signal
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool

from pebble import ProcessExpired, ProcessPool

from pipeline.errors import TbrmError
from pipeline.rewards.types import RewardLabel
from pipeline.rewards.workers.forkserver import WorkerContext
from pipeline.rewards.workers.grading import Limits, Work, pack
from pipeline.rewards.workers.worker import Graded, grade_batch, start_worker
from pipeline.run.threads import usable_cores
from pipeline.sandbox import Protections

REBUILDS = 7
"""Times that a broken pool is built anew without a single task done in between, before giving up."""
SLOWEST_IMPORT_S = 60.0
"""Seconds that a worker may take before its first row: a verifier may import a lot."""
STALLED_S = 15.0
"""Seconds beyond the longest permitted task without any task ending, after which the pool counts as broken."""
CLOCK_JUMP_S = 1.0
"""Pebble times tasks by the wall clock. A timeout during which that clock jumped by more than this does not count."""
FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, 255)
"""Exit codes of workers that somebody else may have killed. 255: the real code was lost to another thread of this
process."""


class Task:
    """Rows submitted together. `rows` stay at hand until their labels are there: nothing is lost with a worker."""

    def __init__(self, rows: Sequence[Work]) -> None:
        self.rows = rows
        self.future: Future[Graded] = Future()
        self.killed = 0
        """Times its worker ended as if killed from outside."""
        self.clock = 0.0
        """Seconds from the monotonic clock to the wall clock when the task was started."""


class VerifierPool:
    """Grades batches of rows. `submit` starts one, `collect` waits for it and settles what went wrong.

    `protections` says what is in force in the workers, once they have graded something. `confined=False` leaves that
    away, for measurements.
    """

    def __init__(self, workers: int, timeout_s: float, cpu_s: float, memory_mb: int, confined: bool = True) -> None:
        self.workers = workers or usable_cores()
        self.limits, self.memory_mb, self.confined = Limits(cpu_s, timeout_s), memory_mb, confined
        self.protections: Protections | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._pool: ProcessPool | None = None
        self._pending: dict[int, Task] = {}
        self._rebuilds = 0
        self._moved = 0.0  # when a task last ended or was submitted

    def submit(self, rows: Sequence[Work]) -> Task:
        task = Task(rows)
        self._pending[id(task)] = task
        self._start(task)
        return task

    def collect(self, task: Task) -> list[RewardLabel]:
        """Labels of the task's rows in order. What a batch left over is graded again row by row."""
        failure = self._wait(task)
        del self._pending[id(task)]
        labels: list[RewardLabel | None] = [failure if len(task.rows) == 1 else None for _ in task.rows]
        if failure is None:
            self._rebuilds = 0
            graded = task.future.result()
            self.protections, labels = graded.protections, graded.labels
        alone = {at: self.submit([task.rows[at]]) for at, label in enumerate(labels) if label is None}
        again = {at: self.collect(single)[0] for at, single in alone.items()}
        return [again[at] if label is None else label for at, label in enumerate(labels)]

    def close(self) -> None:
        """Stop all workers at once; nothing that matters is in them."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _start(self, task: Task) -> None:
        self._pool = self._pool or self._build()
        self._moved = time.monotonic()
        task.clock = time.time() - self._moved
        try:
            task.future = self._pool.schedule(
                grade_batch, args=(pack(task.rows, self.limits),), timeout=self._longest()
            )
        except RuntimeError:  # the pool broke since the last call
            self._rebuild()
        else:
            task.future.add_done_callback(self._note_progress)

    def _longest(self) -> float:
        """Seconds that a task may take. The worker itself limits its rows; this limit is for a worker that hangs."""
        return 3.0 * self.limits.timeout_s + SLOWEST_IMPORT_S

    def _note_progress(self, _: Future[Graded]) -> None:
        self._moved = time.monotonic()

    def _wait(self, task: Task) -> RewardLabel | None:
        """None when the task is done, otherwise the label its row gets if there is only one."""
        while True:
            # Some task must end within the longest permitted time. If none does, a worker was killed in the instant
            # between taking a task and saying so, or while it held the lock of the pool's pipe.
            if not wait([task.future], timeout=0.5).done:
                stalled = time.monotonic() - self._moved > self._longest() + STALLED_S
                if stalled or self._pool is None or not self._pool.active:
                    self._rebuild()
                continue
            error = task.future.exception()
            if isinstance(error, BrokenProcessPool):
                self._rebuild()  # an idle worker was killed from outside: no row is to blame
            elif isinstance(error, TimeoutError) and _clock_jumped(task):
                self._start(task)
            elif isinstance(error, ProcessExpired) and error.exitcode in FROM_OUTSIDE and not task.killed:
                task.killed += 1  # by an operator, or by the system for its memory: the second time it is the row
                self._start(task)
            else:
                return None if error is None else _undecided(error, self._longest())

    def _rebuild(self) -> None:
        """A new pool, and in it every task that has no result. Raises TbrmError when that does not help."""
        self._rebuilds += 1
        if self._rebuilds > REBUILDS:
            raise TbrmError(_HOPELESS)
        self.close()
        if self._rebuilds > 1:
            time.sleep(0.05 * 2**self._rebuilds)  # whatever kills the workers may pass; 13 s in all
        for task in list(self._pending.values()):
            if not task.future.done() or isinstance(task.future.exception(), BrokenProcessPool):
                self._start(task)

    def _build(self) -> ProcessPool:
        self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="tbrm-grading-", ignore_cleanup_errors=True)
        arguments = (self.memory_mb, self._scratch.name, self.confined)
        return ProcessPool(self.workers, 0, start_worker, arguments, WorkerContext())


_HOPELESS = (
    "verifier workers die as soon as they start: raise rewards.memory_mb, or look at the messages above; a module that "
    "cannot be imported in a new process does this too"
)


def _clock_jumped(task: Task) -> bool:
    return abs(time.time() - time.monotonic() - task.clock) > CLOCK_JUMP_S


def _undecided(error: BaseException, longest_s: float) -> RewardLabel:
    """Label of a row whose worker ended with `error`."""
    if isinstance(error, TimeoutError):
        return RewardLabel(0.0, "timeout", None, f"more than {longest_s:g} s of wall time")
    if not isinstance(error, ProcessExpired):
        return RewardLabel(0.0, "error", None, str(error)[:500])
    if error.exitcode == -signal.SIGKILL:
        return RewardLabel(0.0, "memory", None, "the worker was killed twice, as the system does for its memory")
    return RewardLabel(0.0, "error", None, f"the worker died with exit code {error.exitcode}")
