"""What every stage of a generation returns, whoever started it (a command, a Dagster asset, a test)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Self

from pipeline.store import Manifest

Metric = float | int | str


@dataclass(frozen=True)
class StageReport:
    """The outcome of one stage. `skipped` means the partition was already committed with the same configuration.

    `seconds` is wall time of the stage itself, without process start-up. `metrics` is small and flat: it is stored in
    the manifest's `stats`, printed by the command, and shown by Dagster.
    """

    stage: str
    dataset: str
    generation: int
    rows: int
    seconds: float
    skipped: bool
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])

    @classmethod
    def of(cls, stage: str, manifest: Manifest, started: float, skipped: bool) -> Self:
        """The report of a stage that began at `started` (monotonic) and whose partition has this manifest."""
        seconds = monotonic() - started
        return cls(stage, manifest.dataset, manifest.generation, manifest.rows, seconds, skipped, manifest.stats)

    def to_json(self) -> dict[str, object]:
        return asdict(self)
