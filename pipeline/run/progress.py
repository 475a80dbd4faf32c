"""Progress of long stages: a bar on a terminal, a line every few seconds elsewhere (Dagster, log files)."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.terminal import visible

if TYPE_CHECKING:
    from rich.console import Console

_LINE_EVERY_S = 5.0


@dataclass(frozen=True)
class Progress:
    """How far a stage is: what it hands to whoever shows it, in this process or another."""

    label: str
    done: int
    total: int
    """0: not known."""
    unit: str
    seconds: float
    """Since the stage began its work."""
    note: str

    def __str__(self) -> str:
        """`rollouts[3]: 120/480 trajectories, 2.0 trajectories/s, 3 min left`."""
        return f"{self.label}: {self.counts}"

    @property
    def counts(self) -> str:
        """How far, how fast, and how long it will take."""
        rate = self.done / max(self.seconds, 1e-9)
        done = f"{self.done}/{self.total}" if self.total else str(self.done)
        left = f", {duration((self.total - self.done) / rate)} left" if 0 < self.done < self.total else ""
        return f"{done} {self.unit}, {rate:.3g} {self.unit}/s{left} {self.note}".rstrip()


Sink = Callable[[Progress], None]
_sink: Sink | None = None
_every_s = _LINE_EVERY_S


def send_progress_to(sink: Sink | None, every_s: float = _LINE_EVERY_S) -> None:
    """Hand the progress of this process's stages to `sink` every `every_s` seconds; None restores the default."""
    global _sink, _every_s
    _sink, _every_s = sink, every_s


def pass_on(progress: Progress) -> None:
    """Show the progress of a stage that another process runs, where this one shows any."""
    if _sink is not None:
        _sink(progress)


def duration(seconds: float) -> str:
    """A time as one says it, in at most two units: `42 s`, `3 min`, `14 h 11 min`, `2 d 5 h`."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    larger, smaller, units = (*divmod(minutes, 60), ("h", "min")) if hours < 48 else (*divmod(hours, 24), ("d", "h"))
    return f"{larger} {units[0]} {smaller} {units[1]}" if smaller else f"{larger} {units[0]}"


class Bar:
    """The progress of a stage, and then of the next one; `transient`: nothing stays when it ends. A context."""

    def __init__(self, console: "Console | None" = None, transient: bool = False) -> None:
        from rich import console as terminal
        from rich import progress as rich

        self._bar = rich.Progress(
            *(rich.SpinnerColumn(), rich.TextColumn("{task.description}", markup=False)),
            *(rich.BarColumn(), rich.TimeElapsedColumn(), rich.TextColumn("{task.fields[note]}", markup=False)),
            console=console or terminal.Console(stderr=True),
            transient=transient,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=None, note="starting")

    def start(self, label: str) -> None:
        """Another stage begins."""
        self._bar.reset(self._task, total=None, description=visible(label), note="starting")

    def show(self, progress: Progress) -> None:
        """How far it is."""
        self._bar.update(
            self._task,
            total=progress.total or None,
            completed=progress.done,
            description=visible(progress.label),
            note=visible(progress.counts),
        )

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()


class Task:
    """One stage under way. `advance(n)` after each finished piece of work; `note(text)` for a word beside the bar.

    Nothing is shown of work without a unit.
    """

    def __init__(self, label: str, total: int, unit: str, show: Sink, every_s: float) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.started = self._last = time.monotonic()
        self._note, self._show, self._every_s = "", show, every_s

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self.done != self.total and time.monotonic() - self._last >= self._every_s:
            self.say()  # the end is said by `track`

    def note(self, text: str) -> None:
        self._note = text

    def say(self) -> None:
        if self.unit:
            self._last = time.monotonic()
            taken = self._last - self.started
            self._show(Progress(self.label, self.done, self.total, self.unit, taken, self._note))


@contextmanager
def track(label: str, total: int, unit: str) -> Generator[Task]:
    """Report progress towards `total` pieces of work (0: not known), with rate and time left."""
    if _sink is None and unit and sys.stderr.isatty():
        with Bar() as bar:
            task = Task(label, total, unit, bar.show, 0.1)
            try:
                yield task
            finally:
                task.say()
        return
    task = Task(label, total, unit, _sink or _write, _every_s)
    try:
        yield task
    finally:
        task.say()


def _write(progress: Progress) -> None:
    sys.stderr.write(f"{progress}\n")
    sys.stderr.flush()
