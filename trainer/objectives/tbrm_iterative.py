"""Iterative TBRM, Eq. 14: the soft value is the last generation's, so every generation regresses to a fixed target."""

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, log_ratio, trajectory_loss


def tbrm_iterative(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_i ( V_{θ_t}(s_1) + Σ_h (lp_h - ref_h) - r(τ_i)/β )², θ_t the policy at the start of the generation.

    Metrics: residual, value_first (of θ_t), logratio.
    """
    value = given(scores.target_value, "V of the policy at the start of the generation").index_select(0, batch.first)
    ratio = batch.per_trajectory(log_ratio(scores, batch))
    loss, residual = trajectory_loss(value + ratio - batch.reward / options.beta, batch, options)
    return loss, {"residual": residual.detach(), "value_first": value, "logratio": ratio.detach()}
