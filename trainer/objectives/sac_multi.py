"""Soft actor-critic with multi-step consistency: policy and a separate value model share one residual (our reading)."""

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, log_ratio, multi_step_residual


def sac_multi(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_i Σ_h ( V_φ(s_h) + Σ_{h'≥h} (lp_{h'} - ref_{h'} - r_{h'}/β) )².

    Both π_θ and V_φ are trained by it (PCL, DQO, OREO). Metrics: residual (at s_1), value_first (of φ), logratio.
    """
    value = given(scores.critic_value, "the values of a critic")
    residual = multi_step_residual(value, scores, batch, options.beta)
    return residual.square().sum(), {
        "residual": residual.detach().index_select(0, batch.first),
        "value_first": value.detach().index_select(0, batch.first),
        "logratio": batch.per_trajectory(log_ratio(scores, batch).detach()),
    }
