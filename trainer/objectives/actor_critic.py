"""Soft actor-critic (our reading; PCL, DQO, OREO): the value comes from a model of its own, V_φ, the critic.

V_φ = `scores.critic_value` [R]. The policy and the critic share one residual, and the loss trains both.
"""

from collections.abc import Mapping

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, multi_step_loss, objective, one_step_loss

_CRITIC = "the values of a critic"


@objective("sac_single")
def sac_single(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Σ_i Σ_h ( lp_h + V_φ(s_h) - r_h/β - ref_h - V_φ(s_{h+1}) )², with V_φ(s_{H+1}) = 0."""
    return one_step_loss(given(scores.critic_value, _CRITIC), scores, batch, options)


@objective("sac_multi")
def sac_multi(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Σ_i Σ_h ( V_φ(s_h) + Σ_{h'≥h} (lp_{h'} - ref_{h'} - r_{h'}/β) )²."""
    return multi_step_loss(given(scores.critic_value, _CRITIC), scores, batch, options)
