"""Reward-filtered imitation (RAFT, arXiv 2304.06767): the control beside any claim about another objective."""

from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, log_ratio


def filtered_imitation(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """-Σ_i r(τ_i) Σ_h lp_h: responses become likelier by as much as they were rewarded, and nothing else happens.

    A response of reward 0 counts as a term of the mean and teaches nothing; below 0 it becomes unlikelier, without
    bound. No options apply. Metrics: nll (of each response, in nats), value_first, logratio.
    """
    logprob = batch.per_trajectory(scores.logprob)
    return -(batch.reward * logprob).sum(), {
        "nll": -logprob.detach(),
        "value_first": given(scores.value_first, "V at the first response token").detach(),
        "logratio": batch.per_trajectory(log_ratio(scores, batch).detach()),
    }
