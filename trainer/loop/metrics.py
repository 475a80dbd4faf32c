"""What is reported of every update: the batch, the residual, the distance from the reference, speed, memory."""

import resource
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.run.report import Metric
from pipeline.scoring.batch import Trajectory

SEGMENTS = ("old_prob", "update_policy", "ppo_value", "ppo_update_value", "diagnostics", "other")
"""The paper's, as far as they are spent in training: ref_prob and rollout are stages of their own. `old_prob` is spent
before the first update, `diagnostics` there and on the control's cosine; what is left of an update (reading, packing,
reporting) is `other`."""


@dataclass
class Clock:
    """Wall seconds by segment."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SEGMENTS, 0.0))

    @contextmanager
    def time(self, segment: str) -> Generator[None]:
        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[segment] += time.perf_counter() - started


def batch_metrics(batch: Sequence[Trajectory], values: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, Any]:
    """Means of one update's [len(batch)] quantities by name, complete on every rank, and the shape of the residual."""
    lengths = np.array([len(t.response_ids) for t in batch])
    rewards = np.array([t.reward for t in batch])
    residual = values.get("residual", np.full(len(batch), np.nan))
    row: dict[str, Any] = {name: mean(column) for name, column in values.items() if name != "residual"}
    if np.isfinite(residual).any():
        row |= {"residual_std": float(np.nanstd(residual)), **_residual(residual)}
    row |= {
        "reward": mean(rewards),
        "response_tokens": mean(lengths),
        "truncated": mean(np.array([t.truncated for t in batch], dtype=float)),
        "trajectories": len(batch),
        "tokens": int(lengths.sum() + sum(len(t.prompt_ids) for t in batch)),
        "by_source": _split([t.source for t in batch], rewards, residual),
        "by_lag": _split([str(t.lag) for t in batch], rewards, residual),
    }
    return {name: value for name, value in row.items() if value is not None}


def mean(values: npt.NDArray[Any]) -> float | None:
    """Mean over the finite entries, None when there is none (JSON has no NaN)."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _residual(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Mean, mean size and percentiles of residuals; nothing where there is none."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return {}
    p5, p50, p95 = (float(p) for p in np.percentile(finite, (5, 50, 95)))
    return {
        "residual_mean": mean(finite),
        "residual_abs": mean(np.abs(finite)),
        "residual_p5": p5,
        "residual_p50": p50,
        "residual_p95": p95,
    }


def _split(
    names: Sequence[str], rewards: npt.NDArray[np.float64], residual: npt.NDArray[np.float64]
) -> dict[str, dict[str, float | int | None]]:
    """Reward and residuals of the trajectories that share a name."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        rows[name].append(i)
    return {
        name: {"trajectories": len(r), "reward": mean(rewards[r]), **_residual(residual[r])}
        for name, r in sorted(rows.items())
    }


def peak_memory_gb() -> float:
    """Largest memory so far: of the GPU where there is one, else resident memory of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def events(row: dict[str, Any]) -> list[tuple[str, float, int]]:
    """(name, value, update) of the plain numbers of a row, for DeepSpeed's monitor."""
    return [
        (f"train/{k}", float(v), row["update"]) for k, v in row.items() if isinstance(v, float | int) and k != "update"
    ]


def summary(metrics: Sequence[dict[str, Any]], seconds: dict[str, float]) -> dict[str, Metric]:
    """A stage's figures from the rows of its updates: each number's mean, the loss at both ends, seconds by segment."""
    if not metrics:
        return {}
    numbers = {k: None for row in metrics for k, v in row.items() if isinstance(v, float | int)}
    names = [k for k in numbers if k not in ("update", "tokens")]
    means = {name: float(np.mean([row[name] for row in metrics if name in row])) for name in names}
    ends = {"loss_first": float(metrics[0]["loss"]), "loss_last": float(metrics[-1]["loss"])}
    times = {f"seconds_{name}": value for name, value in seconds.items()}
    return {"updates": len(metrics), "tokens": sum(int(row["tokens"]) for row in metrics), **ends, **means, **times}
