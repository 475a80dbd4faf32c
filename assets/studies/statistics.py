"""Numbers over seeds, for the exact studies."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.statistics.intervals import mean_interval


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Mean and its 95% Student interval, as it goes into a study's JSON."""
    interval = mean_interval(np.array(values, dtype=np.float64))
    return {"mean": interval.value, "low": interval.low, "high": interval.high}


def last_rewards(arm: dict[str, Any]) -> list[float]:
    """What the last policy of every run of an arm earns; a run that diverged counts with the last policy it had."""
    return [run["generations"][-1]["reward"] for run in arm["runs"]]


def shown(stats: dict[str, Any], digits: int = 2) -> str:
    """`-0.96 [-1.02, -0.90]`."""
    return f"{stats['mean']:.{digits}f} [{stats['low']:.{digits}f}, {stats['high']:.{digits}f}]"
