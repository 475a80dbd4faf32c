"""Verifiers that grade in the caller's own process, for tests that start none."""

import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from pipeline.rewards.workers.grading import Batch, Limits, grade_row, unpack
from pipeline.rewards.workers.pool import VerifierPool
from pipeline.rewards.workers.worker import Graded, ready
from pipeline.sandbox import Protections

_NO_LIMIT_S = 3600.0
"""Of processor time: the limit that a row has in a worker would end the tests."""


class _HerePool:
    """As much of pebble's pool as a VerifierPool uses. Each task is done before `schedule` returns."""

    active = True

    def schedule(self, function: Callable[..., Any], args: tuple[Batch], timeout: float) -> Future[Graded]:
        del function, timeout  # a worker's function starts a process for the rows; nobody could interrupt this one
        rows, limits = unpack(args[0].line)
        future: Future[Graded] = Future()
        try:
            for name in {row.verifier for row in rows}:
                ready(name)
            labels = [grade_row(row, Limits(_NO_LIMIT_S, limits.timeout_s)) for row in rows]
            future.set_result(Graded(list(labels), Protections()))
        except Exception as error:  # noqa: BLE001 (as a worker does: what a task raises is its result)
            future.set_exception(error)
        return future

    def stop(self) -> None:
        pass

    def join(self) -> None:
        pass


@contextlib.contextmanager
def graded_here() -> Generator[None]:
    """Within it, a VerifierPool starts no workers."""
    build = VerifierPool._build
    VerifierPool._build = lambda self: _HerePool()  # type: ignore[assignment,method-assign,return-value]
    try:
        yield
    finally:
        VerifierPool._build = build  # type: ignore[method-assign]
