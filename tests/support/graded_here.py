"""Verifiers that grade in the caller's own process, for tests that start none."""

import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from pipeline.rewards.pool import VerifierPool


class _HerePool:
    """As much of pebble's pool as a VerifierPool uses. Each task is done before `schedule` returns."""

    active = True

    def schedule(self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> Future[Any]:
        del timeout  # nobody could interrupt it
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
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
