"""Policy gradient: PPO and GRPO, with the clipped surrogate that they share and the usual guards around it.

Shapes: B trajectories, R policy tokens, H_i of them in response i. w_h = exp(lp_h - old_h) is the probability ratio to
the policy π_old, and u_h the importance weight from the sampler to π_old (`old_logprobs`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import column, given, group_stats, log_ratio, next_value, objective

_FARTHEST = 20.0
"""Largest |difference of log-probs| in nats that is exponentiated."""
_LARGEST_K3 = 10.0
_EPSILON = 1e-6
"""Keeps GRPO's advantage finite where all responses to a prompt got the same reward; it is 0 there."""


@objective("grpo")
def grpo(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """-Σ_i (1/H_i) Σ_h [ u_h min(w_h A_i, clip(w_h, 1 ± ε) A_i) - c k3_h ].

    A_i = (r_i - mean) / std over the responses to the prompt, c = `kl_coefficient`, ε = `clip_ratio`; the bounds are
    those of `clipped_gain`. Metrics: advantage, clipped (the share of a response's tokens whose gradient the clip
    stops), importance (mean u of a response), logratio.
    """
    old, importance = old_logprobs(scores, batch, options)
    advantage = group_advantages(batch)
    gain, stopped = clipped_gain(
        scores.logprob.double() - old, advantage.index_select(0, batch.seq), options.clip_ratio, options.dual_clip
    )
    ratio = log_ratio(scores, batch)
    lengths = column(batch.lengths, batch)
    loss = -(batch.per_trajectory(importance * gain - options.kl_coefficient * k3(ratio)) / lengths).sum()
    return loss, {
        "advantage": advantage,
        "clipped": batch.per_trajectory(stopped) / lengths,
        "importance": batch.per_trajectory(importance) / lengths,
        "logratio": batch.per_trajectory(ratio.detach()),
    }


@objective("ppo")
def ppo(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
    """-Σ_h [ u_h min(w_h A_h, clip(w_h, 1 ± ε) A_h) + c_H entropy_h ] + ½ Σ_h (V_φ(s_h) - G_h)² over all tokens.

    V_φ = `scores.critic_value` [R]. A = `gae` [R] with rewards r_h - c_KL (old_h - ref_h) and discount 1, and
    G = A + V_φ. No gradient flows through A and G, so the first part trains π_θ alone and the second V_φ alone.
    Metrics: value_first (V_φ), advantage (mean over tokens), clipped (share of tokens), importance (mean u),
    value_error (mean square), logratio.
    """
    old, importance = old_logprobs(scores, batch, options)
    value = given(scores.critic_value, "the values of a critic")
    entropy = given(scores.entropy, "the policy's entropy")
    rewards = batch.token_reward - options.kl_coefficient * (old - batch.ref_logprobs.double())
    advantage = gae(rewards, value.detach(), batch, options.gae_lambda)
    error = value - (advantage + value.detach())
    gain, stopped = clipped_gain(scores.logprob.double() - old, advantage, options.clip_ratio, options.dual_clip)
    loss = (0.5 * error.square() - importance * gain - options.entropy_coefficient * entropy).sum()
    lengths = column(batch.lengths, batch)
    return loss, {
        "value_first": value.detach().index_select(0, batch.first),
        "advantage": batch.per_trajectory(advantage) / lengths,
        "clipped": batch.per_trajectory(stopped) / lengths,
        "importance": batch.per_trajectory(importance) / lengths,
        "value_error": batch.per_trajectory(error.detach().square()) / lengths,
        "logratio": batch.per_trajectory(log_ratio(scores, batch).detach()),
    }


def old_logprobs(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Tensor]:
    """(log π_old [R], the importance weights u [R] from the sampler to π_old).

    The sampling engine's log-probs differ from the trainer's in precision and kernels. With `old_logprobs: recomputed`
    the trainer computes π_old at the start of the generation, and the sampler μ enters the loss as the weight
    min(π_old/μ, `importance_cap`) of each token (truncated importance sampling). With `behaviour`, π_old is μ.
    """
    behaviour = given(batch.behavior_logprobs, "the behaviour policy's log-probs (behavior_logprobs)")
    if options.old_logprobs == "behaviour":
        return behaviour, torch.ones_like(behaviour)
    old = given(scores.old_logprob, "the log-probs of the policy at the start of the generation")
    if options.importance_cap is None:
        return old, torch.ones_like(old)
    return old, (old - behaviour).clamp(-_FARTHEST, _FARTHEST).exp().clamp(max=options.importance_cap)


def clipped_gain(
    log_ratio: Tensor, advantage: Tensor, clip: float, dual_clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """(min(w A, clip(w, 1 ± clip) A) of w = exp(log_ratio); 1.0 where a clip stops the gradient, else 0.0). All [R].

    Where A < 0 the first clip leaves w unbounded; with `dual_clip` the gain is at least dual_clip A there.
    """
    ratio = log_ratio.clamp(-_FARTHEST, _FARTHEST).exp()
    free, bound = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    gain = torch.minimum(free, bound)
    if dual_clip is not None:
        gain = torch.where(advantage < 0, torch.maximum(gain, dual_clip * advantage), gain)
    return gain, (gain != free).detach().double()


def k3(log_ratio: Tensor) -> Tensor:
    """[R] The estimator exp(-x) + x - 1 of the KL to the reference, x = lp - ref; at most 10, and flat beyond."""
    back = (-log_ratio).clamp(-_FARTHEST, _FARTHEST)
    return (torch.expm1(back) - back).clamp(max=_LARGEST_K3)


def group_advantages(batch: PackedBatch) -> Tensor:
    """[B] (r - mean) / (std + 1e-6), with the statistics of each trajectory's own prompt."""
    rewards = [trajectory.reward for trajectory in batch.trajectories]
    stats = group_stats(batch)
    return column([(r - group.mean) / (group.std + _EPSILON) for r, group in zip(rewards, stats, strict=True)], batch)


def gae(rewards: Tensor, values: Tensor, batch: PackedBatch, lam: float, discount: float = 1.0) -> Tensor:
    """[R] A_h = Σ_{k≥0} (discount λ)^k δ_{h+k} within each trajectory, without gradient.

    δ_h = r_h + discount V(s_{h+1}) - V(s_h), with V(s_{H+1}) = 0.
    """
    delta = (rewards + discount * next_value(values, batch) - values).tolist()
    advantage, end = [0.0] * len(delta), 0
    for length in batch.lengths:
        start, end, running = end, end + length, 0.0
        for h in reversed(range(start, end)):
            running = delta[h] + discount * lam * running
            advantage[h] = running
    return column(advantage, batch)
