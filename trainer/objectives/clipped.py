"""The clipped surrogate that PPO and GRPO share, with the guards that are usual around it."""

import torch
from torch import Tensor

from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from trainer.objectives.base import given

_FARTHEST = 20.0
"""Largest |difference of log-probs| in nats that is exponentiated."""
_LARGEST_K3 = 10.0


def clipped_gain(
    log_ratio: Tensor, advantage: Tensor, clip: float, dual_clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """Of the ratio w = exp(log_ratio): min(w A, clip(w, 1 ± clip) A), and 1.0 where a clip stops the gradient.

    With `dual_clip` it is never below dual_clip A where A < 0: there the first clip leaves w unbounded. All are [R].
    """
    ratio = log_ratio.clamp(-_FARTHEST, _FARTHEST).exp()
    free, bound = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    gain = torch.minimum(free, bound)
    if dual_clip is not None:
        gain = torch.where(advantage < 0, torch.maximum(gain, dual_clip * advantage), gain)
    return gain, (gain != free).detach().double()


def k3(log_ratio: Tensor) -> Tensor:
    """[R] The estimator exp(-x) + x - 1 of the KL to the reference, x = lp - ref; at most 10, flat beyond."""
    back = (-log_ratio).clamp(-_FARTHEST, _FARTHEST)
    return (torch.expm1(back) - back).clamp(max=_LARGEST_K3)


def old_logprobs(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Tensor]:
    """(log π_old [R] that the ratio is taken to, importance weights [R] from the sampler to π_old).

    The engine's log-probs differ from the trainer's, by its precision and kernels. `old_logprobs: recomputed` takes
    π_old from the trainer, at the start of the generation, and brings the sampler μ into the loss as the weight
    min(π_old/μ, `importance_cap`) of each token (truncated importance sampling). `behaviour` takes μ for π_old.
    """
    behaviour = given(batch.behavior_logprobs, "the behaviour policy's log-probs (behavior_logprobs)")
    if options.old_logprobs == "behaviour":
        return behaviour, torch.ones_like(behaviour)
    old = given(scores.old_logprob, "the log-probs of the policy at the start of the generation")
    if options.importance_cap is None:
        return old, torch.ones_like(old)
    return old, (old - behaviour).clamp(-_FARTHEST, _FARTHEST).exp().clamp(max=options.importance_cap)
