"""What `tbrm run` shows: a bar for the stage under way, a line for each stage that is done."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from dagster import DagsterEventType, EventLogEntry
from rich.console import Console

from assets.graph.step import ALL_NUMBERS
from pipeline.run.progress import Bar, Progress, send_progress_to

_NUMBERS_SHOWN = 4


class Terminal:
    """Follows the events of Dagster runs in this process."""

    def __init__(self, console: Console | None = None) -> None:
        # A descriptor of our own, because Dagster captures descriptors 1 and 2 while stages run.
        self.console = console or Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1))
        self._bar: Bar | None = None

    @property
    def is_live(self) -> bool:
        return self.console.is_terminal

    def say(self, line: str) -> None:
        """Print a line as it is."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def generation(self, generation: int, of: int) -> None:
        """Announce a generation."""
        self.console.print(f"[bold]generation {generation + 1} of {of}[/bold]")

    @contextmanager
    def stages(self) -> Generator[None]:
        """While a run executes: only this object writes to the terminal; the stages' output goes to Dagster's logs."""
        with _silenced():
            send_progress_to(self.progress)
            try:
                if not self.is_live:
                    yield
                    return
                with Bar(self.console, transient=True) as self._bar:
                    yield
            finally:
                send_progress_to(None)
                self._bar = None

    def show(self, entry: EventLogEntry) -> None:
        """Listener of a run's events."""
        event = entry.dagster_event
        if event is None:
            return
        if event.event_type == DagsterEventType.STEP_START and self._bar is not None:
            self._bar.start(_stage_of(event.step_key))
        elif event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
            metadata = event.step_materialization_data.materialization.metadata
            self._done(event.asset_key.path[-1] if event.asset_key else "", {k: v.value for k, v in metadata.items()})
        elif event.event_type == DagsterEventType.STEP_RESTARTED:
            self.console.print(f"  {_stage_of(event.step_key)} was killed; started again")

    def progress(self, progress: Progress) -> None:
        """How far the stage under way is."""
        if self._bar is not None:
            self._bar.show(progress)
        else:
            self.console.print(f"    {progress}", markup=False, highlight=False, soft_wrap=True)

    def _done(self, stage: str, metadata: dict[str, object]) -> None:
        numbers = [(k, v) for k, v in metadata.items() if isinstance(v, float)]
        shown = "  ".join(_worded(label, value) for label, value in numbers[:_NUMBERS_SHOWN])
        told = cast("dict[str, Any]", metadata.get(ALL_NUMBERS, {}))
        rows, seconds, overhead = (told.get(k, 0) for k in ("rows", "seconds", "overhead_seconds"))
        took = (
            "was already there"
            if told.get("skipped")
            else f"{rows:>7,} rows {seconds:>6.1f} s + {overhead:.1f} s start"
        )
        self.console.print(f"  {stage:16} {took}  {shown}", markup=False, highlight=False, soft_wrap=True)


def _worded(label: str, value: float) -> str:
    """`sampled reward, %` and 61.2 as `sampled reward 61.2 %`."""
    name, _, unit = label.partition(", ")
    return f"{name} {value:g} {unit}".rstrip()


def _stage_of(step_key: str | None) -> str:
    return (step_key or "").rpartition("__")[2]


@contextmanager
def _silenced() -> Generator[None]:
    """Discard what is written to descriptors 1 and 2, and restore them. The stages' output is in their logs."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)
