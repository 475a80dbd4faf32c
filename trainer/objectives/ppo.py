"""PPO: clipped policy gradient with generalized advantages from a trained critic."""

import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given, log_ratio, next_value
from trainer.objectives.clipped import clipped_gain, old_logprobs


def ppo(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """-Σ_h [ u_h min(w_h A_h, clip(w_h, 1 ± ε) A_h) + c_H entropy_h ] + ½ Σ_h (V_φ(s_h) - G_h)² over all tokens.

    w_h = exp(lp_h - old_h), with the importance weights u_h of `old_logprobs` and the bounds of `clipped_gain`. A and G
    come from `gae` with rewards r_h - c_KL (old_h - ref_h) and discount 1; no gradient flows through them, so π_θ sees
    the first part alone and V_φ the second. Metrics: value_first (V_φ), advantage (mean over tokens), clipped (share of
    tokens), importance (mean u), value_error (mean square), logratio.
    """
    old, importance = old_logprobs(scores, batch, options)
    value = given(scores.critic_value, "the values of a critic")
    entropy = given(scores.entropy, "the policy's entropy")
    rewards = batch.token_reward - options.kl_coefficient * (old - batch.ref_logprobs.double())
    advantage = gae(rewards, value.detach(), batch, options.gae_lambda)
    error = value - (advantage + value.detach())
    gain, stopped = clipped_gain(scores.logprob.double() - old, advantage, options.clip_ratio, options.dual_clip)
    loss = (0.5 * error.square() - importance * gain - options.entropy_coefficient * entropy).sum()
    lengths = torch.tensor(batch.lengths, dtype=torch.float64, device=gain.device)
    return loss, {
        "value_first": value.detach().index_select(0, batch.first),
        "advantage": batch.per_trajectory(advantage) / lengths,
        "clipped": batch.per_trajectory(stopped) / lengths,
        "importance": batch.per_trajectory(importance) / lengths,
        "value_error": batch.per_trajectory(error.detach().square()) / lengths,
        "logratio": batch.per_trajectory(log_ratio(scores, batch).detach()),
    }


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
    return torch.tensor(advantage, dtype=torch.float64, device=values.device)
