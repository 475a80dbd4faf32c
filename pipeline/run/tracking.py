"""The numbers of an experiment in a tracker that people know: one run for all its stages, beside the store."""

import logging
import math
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from pipeline.config import Experiment
from pipeline.config.experiment import TrackerName
from pipeline.policies.refs import local_root
from pipeline.run.resumable import StageReport
from pipeline.store import Store, text_hash

Log = Callable[[Mapping[str, Any], int], None]
"""(numbers by name, their place on the axis)."""
_PROJECT = "tbrm"


@dataclass(frozen=True)
class Tracked:
    """The run of an experiment, plainly enough that a process of a training can open it."""

    by: TrackerName
    experiment: str
    run: str
    """Its id, which goes on where an earlier stage has ended."""
    folder: str
    """Where TensorBoard's event files lie."""

    @contextmanager
    def open(self, part: str, axis: str) -> Generator[Log]:
        """A function that logs numbers of `part` over `axis`. A tracker that fails is told of, and stops no stage."""
        from accelerate import tracking
        from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

        # Its own logger asks for accelerate's state of the process, which would join the processes of a job anew.
        tracking.logger = logging.getLogger(tracking.__name__)  # pyright: ignore[reportAttributeAccessIssue]
        options: dict[str, Any] = {"name": self.run, "resume": "allow"}
        tracker: GeneralTracker
        if self.by == "tensorboard":
            tracker = TensorBoardTracker(self.experiment, self.folder)
        elif self.by == "wandb":
            tracker = WandBTracker(_PROJECT, id=self.run, **options)
        else:
            tracker = TrackioTracker(_PROJECT, **options)
        tracker.main_process_only = False  # who calls this is the one process that logs

        def log(values: Mapping[str, Any], step: int) -> None:
            numbers = {f"{part}/{name}": float(v) for name, v in values.items() if _is_number(v)}
            # Only TensorBoard takes steps that begin again in each part.
            steps = {"step": step} if self.by == "tensorboard" else {}
            _told(lambda: tracker.log(numbers if steps else numbers | {axis: step}, **steps))

        _told(tracker.start)
        try:
            yield log
        finally:
            _told(tracker.finish)


def tracked(experiment: Experiment, store: Store) -> Tracked | None:
    """Where the experiment's numbers go; None where it names no tracker."""
    if experiment.tracker == "none":
        return None
    run = f"{experiment.name}-{text_hash(store.root)[:8]}"  # another store has another experiment of that name
    return Tracked(experiment.tracker, experiment.name, run, str(local_root(store) / "tracked"))


def track_stage(experiment: Experiment, store: Store, report: StageReport) -> None:
    """Log what a stage reports, over generations; nothing of one that was there already."""
    run = tracked(experiment, store)
    if run is not None and not report.skipped:
        with run.open(report.stage, "generation") as log:
            log({**report.metrics, "rows": report.rows, "seconds": report.seconds}, report.generation)


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def _told(act: Callable[[], object]) -> None:
    try:
        with redirect_stdout(sys.stderr):  # a command's output is its report
            act()
    except Exception as error:  # noqa: BLE001  # whatever a tracker's client and its server come up with
        logging.getLogger(__name__).warning("the tracker failed, the stage goes on: %r", error)
