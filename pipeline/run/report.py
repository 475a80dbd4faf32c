"""What every stage of a generation returns, whoever started it (a command, a Dagster asset, a test)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

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

    def to_json(self) -> dict[str, object]:
        return asdict(self)
