"""Soft Q-learning with one-step targets: V comes from the policy at the start of the generation (our reading)."""

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, log_ratio, one_step_residual


def sql_single(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_i Σ_h ( lp_h + V_{θ_t}(s_h) - r_h/β - ref_h - V_{θ_t}(s_{h+1}) )², V_{θ_t}(s_{H+1}) = 0.

    θ_t is the policy at the start of the generation. Metrics: residual (Σ_h), value_first (of θ_t), logratio.
    """
    value = given(scores.target_value, "V of the policy at the start of the generation")
    residual = one_step_residual(value, scores, batch, options.beta)
    return residual.square().sum(), {
        "residual": batch.per_trajectory(residual.detach()),
        "value_first": value.detach().index_select(0, batch.first),
        "logratio": batch.per_trajectory(log_ratio(scores, batch).detach()),
    }
