"""Direct alignment, pointwise (KTO, DRO, policy mirror descent; our reading): V comes from the prompt's own rewards."""

import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import log_ratio, trajectory_loss


def daa_point(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_i ( V̂(x) + Σ_h (lp_h - ref_h) - r(τ_i)/β )², V̂(x) = log (1/n) Σ_j exp(r_j/β) over the prompt's n rollouts.

    Metrics: residual, value_first (V̂), logratio.
    """
    value = _soft_values(batch)
    ratio = batch.per_trajectory(log_ratio(scores, batch))
    loss, residual = trajectory_loss(value + ratio - batch.reward / options.beta, batch, options)
    return loss, {"residual": residual.detach(), "value_first": value, "logratio": ratio.detach()}


def _soft_values(batch: PackedBatch) -> Tensor:
    values: list[float] = []
    for trajectory in batch.trajectories:
        if trajectory.group is None:
            raise TbrmError(f"trajectory {trajectory.trajectory_id} of {trajectory.source} has no group of rollouts")
        values.append(trajectory.group.soft_value)
    return torch.tensor(values, dtype=torch.float64, device=batch.reward.device)
