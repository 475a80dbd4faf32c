"""Imitation: the maximum likelihood of stored responses, of all of them or of those that were rewarded."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, log_ratio, objective


@objective("imitation")
def imitation(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """-Σ_i Σ_h lp_h (behaviour cloning); the warm start uses it. No options apply.

    Metrics: nll, the negative log-likelihood of each response in nats.
    """
    nll = -batch.per_trajectory(scores.logprob)
    return nll.sum(), {"nll": nll.detach()}


@objective("filtered_imitation")
def filtered_imitation(
    scores: Scores, batch: PackedBatch, options: TrainingConfig
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """-Σ_i r(τ_i) Σ_h lp_h (RAFT, arXiv 2304.06767): the control beside any claim about another objective.

    A response becomes likelier in proportion to its reward, and nothing else happens. A response of reward 0 counts as
    a term of the mean and teaches nothing; one of negative reward becomes unlikelier, without bound. No options apply.
    Metrics: nll (of each response, in nats), value_first, logratio.
    """
    logprob = batch.per_trajectory(scores.logprob)
    return -(batch.reward * logprob).sum(), {
        "nll": -logprob.detach(),
        "value_first": given(scores.value_first, "V at the first response token").detach(),
        "logratio": batch.per_trajectory(log_ratio(scores, batch).detach()),
    }
