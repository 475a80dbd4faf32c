"""The grading process: a fork of a worker, confined, that reads responses and answers with lines of JSON.

Processor time is limited for each row by an interval timer whose signal kills the process (SIGPROF, default action),
and the address space is capped. Text is all that leaves: the worker takes nothing else, and checks it.
"""

import itertools
import json
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from pipeline.rewards.text import storable
from pipeline.rewards.types import DEFAULT, STATUSES, Conventions, Extra, RewardLabel
from pipeline.rewards.verifiers import get_verifier
from pipeline.sandbox import Protections, confine_child
from pipeline.sandbox.confinement import folders_of_python

EXIT_MEMORY = 86
"""Exit code of a grading process that reached its memory limit: it does not serve another row."""
FLUSH_S = 0.05
"""Labels are sent at least this often, so that little is graded again when a row ends the process. Each time wakes the
worker, which costs as much as a row."""
_MOST_COMPONENTS = 16


@dataclass(frozen=True, slots=True)
class Work:
    """One row as it travels to a worker: the reduced response, and the verifier's name."""

    verifier: str
    response: str
    answer: str
    extra: Extra
    conventions: Conventions = DEFAULT


@dataclass(frozen=True)
class Limits:
    """What one row may take: seconds of a processor, and of wall time."""

    cpu_s: float
    timeout_s: float


@dataclass(frozen=True)
class Batch:
    """Rows as they travel. `line` is read where they are graded; a worker passes it on and knows the rest."""

    verifiers: tuple[str, ...]
    rows: int
    line: bytes
    limits: Limits


@dataclass(frozen=True)
class Place:
    """What a grading process is born with: pipes to read from and write to, shared memory, and its confinement."""

    asked: int
    answers: int
    row: mmap.mmap
    protections: Protections
    scratch: str
    memory_mb: int


def run(place: Place, row: Work | None, limits: Limits | None) -> NoReturn:
    """Grade the row this process was born with, or all that it is asked. Ends the process, whatever happens."""
    code = 1
    try:
        _settle_in(place, runs_code=row is not None)
        if row is not None and limits is not None:
            _send(place.answers, [grade_row(row, limits)])
        else:
            _serve(place)
        code = 0
    except MemoryError:
        code = EXIT_MEMORY
    finally:
        os._exit(code)  # nothing is raised further: the stack below this call is the worker's


def _settle_in(place: Place, runs_code: bool) -> None:
    os.setpgid(0, 0)
    close_all_but(place.asked, place.answers)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + place.memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if place.protections.environment:
        readable = None if runs_code else folders_of_python()
        confine_child(place.protections, place.scratch, readable, children=runs_code)


def close_all_but(*kept: int) -> None:
    """Close every descriptor but the standard ones and `kept`: those of the worker lead to its parent."""
    edges = [2, *sorted(kept), resource.getrlimit(resource.RLIMIT_NOFILE)[0]]
    for before, after in itertools.pairwise(edges):
        os.closerange(before + 1, after)


def _serve(place: Place) -> None:
    with os.fdopen(place.asked, "rb") as requests:
        for line in requests:
            rows, limits = unpack(line)
            labels: list[RewardLabel] = []
            sent = time.monotonic()
            for number, row in enumerate(rows):
                place.row[0:4] = number.to_bytes(4, "little")
                labels.append(grade_row(row, limits))
                if time.monotonic() - sent > FLUSH_S:
                    _send(place.answers, labels)
                    labels, sent = [], time.monotonic()
            _send(place.answers, labels)


def grade_row(row: Work, limits: Limits) -> RewardLabel:
    """The label of a row. The process ends where a limit is reached."""
    fate = _Fate()
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
    with fate:
        label = get_verifier(row.verifier, row.conventions).grade(row.response, row.answer, row.extra)
        fate.label = RewardLabel(
            float(label.reward),
            label.status,
            storable(label.extracted_answer),
            storable(label.detail),
            {name: float(value) for name, value in label.components.items()},
            label.token_rewards,
        )
    # Off while talking to others: a worker killed while it holds the pool's lock would stall the others.
    signal.setitimer(signal.ITIMER_PROF, 0)
    return fate.label


class _Fate:
    """Whatever a verifier raises, `SystemExit` too, is the label of its row and of no other."""

    label = RewardLabel(0.0, "error")

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, MemoryError):
            os._exit(EXIT_MEMORY)
        if kind is not None:
            self.label = RewardLabel(0.0, "error", None, storable(f"{kind.__name__}: {error}"))
        return True


def _send(descriptor: int, labels: Sequence[RewardLabel]) -> None:
    data = b"".join(_encode_label(label) for label in labels)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def pack(rows: Sequence[Work], limits: Limits) -> Batch:
    """The rows as a batch. They are mostly under one set of conventions, which travels once."""
    known: dict[Conventions, int] = {}
    fields = [
        (row.verifier, row.response, row.answer, row.extra, known.setdefault(row.conventions, len(known)))
        for row in rows
    ]
    line = json.dumps([fields, list(map(astuple, known)), *astuple(limits)]).encode() + b"\n"
    return Batch(tuple(dict.fromkeys(row.verifier for row in rows)), len(rows), line, limits)


def unpack(line: bytes) -> tuple[list[Work], Limits]:
    """What `pack` made a line of."""
    fields, known, cpu_s, timeout_s = json.loads(line)
    conventions = [Conventions(*each) for each in known]
    rows = [
        Work(verifier, response, answer, extra, conventions[at]) for verifier, response, answer, extra, at in fields
    ]
    return rows, Limits(cpu_s, timeout_s)


def _encode_label(label: RewardLabel) -> bytes:
    fields = (label.reward, label.status, label.extracted_answer, label.detail, dict(label.components))
    return json.dumps([*fields, label.token_rewards]).encode() + b"\n"


def decode_label(line: bytes) -> RewardLabel:
    """A label that a grading process sent, which may be anything: what is no label becomes one with status error."""
    try:
        reward, status, extracted, detail, components, tokens = json.loads(line)
        return RewardLabel(
            _number(reward),
            STATUSES[STATUSES.index(status)],
            _text(extracted),
            _text(detail),
            _components(components),
            None if tokens is None else tuple(map(_number, tokens)),
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        return RewardLabel(0.0, "error", None, "the grading process sent something that is no label")


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError("not a number")
    return float(value)


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("not text")
    return storable(value)


def _components(value: Any) -> Mapping[str, float]:
    if not isinstance(value, dict) or len(value) > _MOST_COMPONENTS:
        raise TypeError("not components")
    found: dict[Any, Any] = value
    return {str(storable(name, 64)): _number(part) for name, part in found.items()}
