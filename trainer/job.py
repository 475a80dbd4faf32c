"""One training job: what it trains from what, described plainly enough that any process can take part in it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.config.policy import PolicyConfig
from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.run.tracking import Tracked
from pipeline.store.files import from_json

JOB_FILE, METRICS_FILE, RESULT_FILE, ERROR_FILE = "job.json", "metrics.jsonl", "result.json", "error.txt"
TRAJECTORIES, START_SCORES_FILE = "trajectories.arrow", "start_scores.npz"
"""Names of the files in a job's folder."""


@dataclass(frozen=True)
class TrainJob:
    """Train a policy for `updates` updates on the trajectories in `state`.

    `state` is the job's own folder, on a file system that all its processes share. It holds the trajectories
    (`write_trajectories`), checkpoints, metrics, and at the end the exported policy in `state/policy`.
    """

    label: str
    """Shown at the progress bar, e.g. `train[3]`."""
    start: Path
    """Hugging Face folder whose weights are trained; also θ_t of the objectives with a frozen target."""
    state: Path
    model: PolicyConfig
    """Type and attention to load the model with."""
    training: TrainingConfig
    updates: int
    seed: int
    """Decides the order of the data."""
    config_hash: str
    """Checkpoints of another hash are refused."""
    tracked: Tracked | None = None
    """Where the numbers of each update go besides metrics.jsonl."""
    updates_before: int = 0
    """Updates of the generations before this one."""
    carry: Path | None = None
    """Checkpoint of the generation before, whose optimizer state and master weights are continued."""

    @property
    def out(self) -> Path:
        return self.state / "policy"

    def save(self) -> Path:
        path = self.state / JOB_FILE
        path.write_bytes(TypeAdapter(TrainJob).dump_json(self, indent=1))
        return path

    @classmethod
    def load(cls, path: Path) -> "TrainJob":
        """Raises TbrmError naming the field that does not fit."""
        try:
            return from_json(TrainJob, json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise TbrmError(f"{path} is damaged ({error}): start the stage again, which writes it anew") from error


@dataclass(frozen=True)
class TrainResult:
    """What a job did. The exported, verified policy lies in `policy`; `metrics` holds one row for each update."""

    policy: Path
    metrics: list[dict[str, Any]]
    resumed_from: int
    """Update of the checkpoint that this run went on from; 0 when it started at the beginning."""
    carried: bool
    """Whether the optimizer state of the generation before was continued."""
    seconds: dict[str, float]
    """Wall time by segment."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl, one for each update; a last line that a killed process left unfinished is dropped."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
