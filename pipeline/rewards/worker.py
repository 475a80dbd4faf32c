"""The worker's side: grading rows under limits that the kernel enforces.

The limits do not rely on Python code getting a turn: `9**9**9` never returns to the interpreter, so neither an alarm
handler nor a thread would run. An interval timer of processor time kills the process (SIGPROF, default action), and
the address space is capped. The parent adds the wall clock and replaces what was killed.
"""

import functools
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pipeline.rewards.text import storable
from pipeline.rewards.types import Extra, RewardLabel, Verifier
from pipeline.rewards.verifiers import get_verifier

EXIT_MEMORY = 86
"""Exit code of a worker that reached its memory limit: it does not serve another row."""


@dataclass(frozen=True, slots=True)
class Work:
    """One row as it travels to a worker: the reduced response, and the verifier's name."""

    verifier: str
    response: str
    answer: str
    extra: Extra


def start_worker(memory_mb: int) -> None:
    """Runs once in each new worker."""
    # Default action, so that a stop takes effect at once even inside C code.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@functools.cache
def ready(name: str) -> Verifier:
    """The verifier, imported and prepared: once a process, and on no row's budget of processor seconds."""
    verifier = get_verifier(name)
    verifier.prepare()
    return verifier


def grade_batch(rows: Sequence[Work], cpu_s: float) -> list[RewardLabel]:
    """Grade rows one after the other, each with its own budget of processor seconds.

    What a verifier raises ends the batch: the caller grades its rows again one by one and charges only the guilty one.
    """
    with _Sendable():
        for row in rows:
            ready(row.verifier)
    try:
        return [_grade(row, cpu_s) for row in rows]
    finally:
        # Off while talking to the parent: a worker killed while it holds the pool's lock would stall the others.
        signal.setitimer(signal.ITIMER_PROF, 0)


def _grade(row: Work, cpu_s: float) -> RewardLabel:
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    with _Sendable():
        label = ready(row.verifier).grade(row.response, row.answer, row.extra)
        return RewardLabel(
            float(label.reward),
            label.status,
            storable(label.extracted_answer),
            storable(label.detail),
            {name: float(value) for name, value in label.components.items()},
            label.token_rewards,
        )


class VerifierError(Exception):
    """What a verifier raised, as text."""


class _Sendable:
    """Whatever a verifier raises leaves as a VerifierError: an exception class of its own may not survive the pipe."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, MemoryError):
            os._exit(EXIT_MEMORY)
        if kind is not None:
            raise VerifierError(f"{kind.__name__}: {error}"[:500]) from None
