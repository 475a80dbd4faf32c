"""What is reported of every update: batch, residual, distance from the reference, time, arithmetic, memory."""

import json
import resource
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.training import TrainingConfig
from pipeline.run.resumable import Metric
from pipeline.run.tracking import Log
from pipeline.scoring.batch import Trajectory
from trainer.job import read_metrics

SEGMENTS = ("old_prob", "update_policy", "ppo_value", "ppo_update_value", "diagnostics", "other")
"""The paper's segments of time, as far as they belong to training: ref_prob and rollout are stages of their own here.
`old_prob` lies before the first update; `diagnostics` lies there too, and holds the control's cosine. What is left of
an update (reading, packing, reporting) is `other`."""
_PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
    "A100": 312.0,
    "A10G": 70.0,
    "L40S": 362.0,
    "L4": 121.0,
    "B200": 2_250.0,
}
"""Dense bf16 tensor-core peaks of the data sheets; the first name that the device's name contains."""


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
    """Means of one update's quantities by name, each [len(batch)] and complete on every rank; more of the residual."""
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


def update_flops(model: Any, batch: Sequence[Trajectory], training: TrainingConfig) -> float:
    """Floating-point operations of forward and backward over a batch: 2 for each multiply-add.

    A weight costs 6 for each token it sees (with LoRA 4: its gradient is not computed), causal attention of a sequence
    of L tokens 6 L² · width a layer, the head only response tokens. A critic costs the backbone once more. Exact for
    dense transformers; for mixtures of experts all experts are counted, so that the figure is too large.
    """
    config = model.config
    head = config.vocab_size * config.hidden_size
    embeddings = head if config.tie_word_embeddings else 2 * head
    weights = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()) - embeddings
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    lengths = [len(t.prompt_ids) + len(t.response_ids) for t in batch]
    responses = sum(int(t.response_mask.sum()) for t in batch)
    each = 6.0 if training.lora is None else 4.0
    attention = 6.0 * config.num_hidden_layers * width * sum(length**2 for length in lengths)
    backbone = each * weights * sum(lengths) + attention
    models = 2 if training.needs.critic else 1
    return models * backbone + each * head * responses


def peak_flops() -> float | None:
    """bf16 operations a second that this process's GPU can do at most; None on CPUs and unknown devices."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((1e12 * peak for known, peak in _PEAK_TFLOPS.items() if known in name), None)


class MetricsFile:
    """The rows of a job's updates in metrics.jsonl, which rank 0 writes, and in the experiment's tracker by `log`.

    Rows of updates after `start`, the update of the checkpoint that the job goes on from, are dropped. On the axis of
    the tracker lie `before` updates of earlier generations.
    """

    def __init__(self, path: Path, start: int, leader: bool, log: Log | None = None, before: int = 0) -> None:
        self._path, self._leader, self._log, self._before = path, leader, log, before
        if self._leader:
            kept = [json.dumps(row) + "\n" for row in read_metrics(path) if row["update"] <= start] if start else []
            path.write_text("".join(kept), encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        if not self._leader:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._log is not None:
            self._log({k: v for k, v in row.items() if k != "update"}, self._before + row["update"])


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
