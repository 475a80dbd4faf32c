"""Imitation (behaviour cloning): the maximum likelihood of stored responses. The warm start uses it."""

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores


def imitation(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """-Σ_i Σ_h lp_h. No options apply. Metrics: nll, the negative log-likelihood of each response in nats."""
    nll = -batch.per_trajectory(scores.logprob)
    return nll.sum(), {"nll": nll.detach()}
