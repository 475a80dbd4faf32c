"""Progress of long stages: a tqdm bar on a terminal, a line every few seconds elsewhere (Dagster, log files)."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

Sink = Callable[[str], None]
_LINE_EVERY_S = 5.0
_sink: Sink | None = None
_line_every_s = _LINE_EVERY_S


def send_progress_to(sink: Sink | None, every_s: float = _LINE_EVERY_S) -> None:
    """Send a progress line every `every_s` seconds to `sink` (a logger of the caller's); None restores the default."""
    global _sink, _line_every_s
    _sink, _line_every_s = sink, every_s


def duration(seconds: float) -> str:
    """A time as one says it, in at most two units: `42 s`, `3 min`, `14 h 11 min`, `2 d 5 h`."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    larger, smaller, units = (*divmod(minutes, 60), ("h", "min")) if hours < 48 else (*divmod(hours, 24), ("d", "h"))
    return f"{larger} {units[0]} {smaller} {units[1]}" if smaller else f"{larger} {units[0]}"


class Task:
    """One stage under way. `advance(n)` after each finished piece of work; `note(text)` for a word beside the bar.

    Nothing is shown of work without a unit.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.started = self._last_line = time.monotonic()
        self._note = ""
        self._bar = None
        if unit and _sink is None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total or None, desc=label, unit=unit, leave=True, dynamic_ncols=True)

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
        elif self.done != self.total and time.monotonic() - self._last_line >= _line_every_s:
            self._line()  # the last line is `close`'s

    def note(self, text: str) -> None:
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._line()

    def _line(self) -> None:
        if not self.unit:
            return
        self._last_line = time.monotonic()
        elapsed = max(self._last_line - self.started, 1e-9)
        rate = self.done / elapsed
        left = f", {(self.total - self.done) / rate:.0f} s left" if 0 < self.done < self.total else ""
        done = f"{self.done}/{self.total}" if self.total else str(self.done)
        line = f"{self.label}: {done} {self.unit}, {rate:.1f} {self.unit}/s{left} {self._note}".rstrip()
        if _sink is not None:
            _sink(line)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


@contextmanager
def track(label: str, total: int, unit: str) -> Generator[Task]:
    """Report progress towards `total` pieces of work (0: not known), with rate and time left."""
    task = Task(label, total, unit)
    try:
        yield task
    finally:
        task.close()
