"""The clipped surrogate that PPO and GRPO share."""

import torch
from torch import Tensor


def clipped_gain(log_ratio: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Of the ratio w = exp(log_ratio): min(w A, clip(w, 1 ± clip) A), and 1.0 where the clip stops the gradient.

    All are [R].
    """
    ratio = log_ratio.exp()
    free, bound = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    return torch.minimum(free, bound), (bound < free).detach().double()
