"""Soft actor-critic with one-step consistency: policy and a separate value model share one residual (our reading)."""

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, log_ratio, one_step_residual


def sac_single(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_i Σ_h ( lp_h + V_φ(s_h) - r_h/β - ref_h - V_φ(s_{h+1}) )², V_φ(s_{H+1}) = 0.

    Both π_θ and V_φ are trained by it (PCL, DQO, OREO). Metrics: residual (Σ_h), value_first (of φ), logratio.
    """
    value = given(scores.critic_value, "the values of a critic")
    residual = one_step_residual(value, scores, batch, options.beta)
    return residual.square().sum(), {
        "residual": batch.per_trajectory(residual.detach()),
        "value_first": value.detach().index_select(0, batch.first),
        "logratio": batch.per_trajectory(log_ratio(scores, batch).detach()),
    }
