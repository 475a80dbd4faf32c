"""Bellman residual minimization, Eq. 3: TBRM's ablation with one squared residual for each token."""

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, log_ratio, one_step_residual


def brm(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_i Σ_h ( Q_θ(s_h,a_h) - V_θ(s_{h+1}) - r_h/β - ref_h )², with Q_θ = lp + V_θ and V_θ(s_{H+1}) = 0.

    Without token rewards the outcome is r_H. Metrics: residual (Σ_h, which is TBRM's), value_first, logratio.
    """
    value = given(scores.value, "V at every response token")
    residual = one_step_residual(value, scores, batch, options.beta)
    return residual.square().sum(), {
        "residual": batch.per_trajectory(residual.detach()),
        "value_first": value.detach().index_select(0, batch.first),
        "logratio": batch.per_trajectory(log_ratio(scores, batch).detach()),
    }
