"""Soft Q-learning (our reading, in V): the value comes from θ_t, the policy at the start of the generation.

V_{θ_t} = `scores.target_value` [R] is a constant of the loss; only lp_h = log π_θ(a_h|s_h) is trained.
"""

from collections.abc import Mapping

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, multi_step_loss, objective, one_step_loss

_TARGET = "V of the policy at the start of the generation"


@objective("sql_single")
def sql_single(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Σ_i Σ_h ( lp_h + V_{θ_t}(s_h) - r_h/β - ref_h - V_{θ_t}(s_{h+1}) )²: the target is the next state's value."""
    return one_step_loss(given(scores.target_value, _TARGET), scores, batch, options)


@objective("sql_multi")
def sql_multi(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Σ_i Σ_h ( V_{θ_t}(s_h) + Σ_{h'≥h} (lp_{h'} - ref_{h'} - r_{h'}/β) )²: the target is the return to the end."""
    return multi_step_loss(given(scores.target_value, _TARGET), scores, batch, options)
