"""Direct alignment, pairwise (DPO, IPO; our reading): V(x) cancels between two responses to one prompt."""

import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import log_ratio


def daa_pair(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ over pairs ( [Σ_h(lp_h - ref_h)](τ_1) - [Σ_h(lp_h - ref_h)](τ_2) - (r_1 - r_2)/β )².

    The pairs are `batch.pairs`. Metrics: residual (a pair's, at its first response; NaN elsewhere), logratio.
    """
    ratio = batch.per_trajectory(log_ratio(scores, batch))
    gap = ratio - batch.reward / options.beta
    one, other = batch.pairs.unbind(1)
    residual = gap.index_select(0, one) - gap.index_select(0, other)
    shown = torch.full_like(gap, float("nan")).index_copy(0, one, residual).detach()
    return residual.square().sum(), {"residual": shown, "logratio": ratio.detach()}
