"""Direct alignment (our reading): V(x) comes from the rewards of the prompt's own responses, or cancels between two."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import column, group_stats, log_ratio, objective, trajectory_loss


@objective("daa_point")
def daa_point(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Pointwise (KTO, DRO, policy mirror descent): Σ_i ( V̂(x) + Σ_h (lp_h - ref_h) - r(τ_i)/β )².

    V̂(x) = log (1/n) Σ_j exp(r_j/β) over the n responses to the prompt, [B].
    """
    return trajectory_loss(column([group.soft_value for group in group_stats(batch)], batch), scores, batch, options)


@objective("daa_pair")
def daa_pair(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Pairwise (DPO, IPO): Σ over pairs ( [Σ_h(lp_h - ref_h)](τ_1) - [Σ_h(lp_h - ref_h)](τ_2) - (r_1 - r_2)/β )².

    The pairs are `batch.pairs` [P, 2]. Metrics: residual (of a pair, at its first response; NaN elsewhere), logratio.
    """
    ratio = batch.per_trajectory(log_ratio(scores, batch))
    gap = ratio - batch.reward / options.beta
    one, other = batch.pairs.unbind(1)
    residual = gap.index_select(0, one) - gap.index_select(0, other)
    shown = torch.full_like(gap, float("nan")).index_copy(0, one, residual).detach()
    return residual.square().sum(), {"residual": shown, "logratio": ratio.detach()}
