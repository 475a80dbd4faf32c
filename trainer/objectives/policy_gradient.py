"""GRPO: clipped policy gradient with advantages relative to the other rollouts of the prompt."""

import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import log_ratio
from trainer.objectives.clipped import clipped_gain, k3, old_logprobs

_EPSILON = 1e-6
"""Keeps the advantage finite where all rollouts of a prompt were rewarded alike; it is 0 there."""


def grpo(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """-Σ_i (1/H_i) Σ_h [ u_h min(w_h A_i, clip(w_h, 1 ± ε) A_i) - c k3_h ].

    w_h = exp(lp_h - old_h), with the importance weights u_h of `old_logprobs` and the bounds of `clipped_gain`, A_i =
    (r_i - mean) / std over the prompt's rollouts, c = `kl_coefficient`, ε = `clip_ratio`. Metrics: advantage, clipped
    (the share of a response's tokens whose gradient the clip stops), importance (mean u of a response), logratio.
    """
    old, importance = old_logprobs(scores, batch, options)
    advantage = group_advantages(batch)
    gain, stopped = clipped_gain(
        scores.logprob.double() - old, advantage.index_select(0, batch.seq), options.clip_ratio, options.dual_clip
    )
    ratio = log_ratio(scores, batch)
    lengths = torch.tensor(batch.lengths, dtype=torch.float64, device=gain.device)
    loss = -(batch.per_trajectory(importance * gain - options.kl_coefficient * k3(ratio)) / lengths).sum()
    return loss, {
        "advantage": advantage,
        "clipped": batch.per_trajectory(stopped) / lengths,
        "importance": batch.per_trajectory(importance) / lengths,
        "logratio": batch.per_trajectory(ratio.detach()),
    }


def group_advantages(batch: PackedBatch) -> Tensor:
    """[B] fp64, (r - mean) / (std + 1e-6) with the statistics of each trajectory's own prompt."""
    rows: list[float] = []
    for trajectory in batch.trajectories:
        if trajectory.group is None:
            raise TbrmError(f"trajectory {trajectory.trajectory_id} of {trajectory.source} has no group of rollouts")
        rows.append((trajectory.reward - trajectory.group.mean) / (trajectory.group.std + _EPSILON))
    return torch.tensor(rows, dtype=torch.float64, device=batch.reward.device)
