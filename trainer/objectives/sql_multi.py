"""Soft Q-learning with multi-step targets: the return to the end in place of the next state's V (our reading)."""

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, log_ratio, multi_step_residual


def sql_multi(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_i Σ_h ( V_{θ_t}(s_h) + Σ_{h'≥h} (lp_{h'} - ref_{h'} - r_{h'}/β) )².

    θ_t is the policy at the start of the generation. Metrics: residual (at s_1), value_first (of θ_t), logratio.
    """
    value = given(scores.target_value, "V of the policy at the start of the generation")
    residual = multi_step_residual(value, scores, batch, options.beta)
    return residual.square().sum(), {
        "residual": residual.detach().index_select(0, batch.first),
        "value_first": value.detach().index_select(0, batch.first),
        "logratio": batch.per_trajectory(log_ratio(scores, batch).detach()),
    }
