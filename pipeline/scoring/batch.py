"""The types of scoring: stored trajectories, packed micro-batches of them, and their scores.

Sizes: N tokens of a pack (prompts and responses), B trajectories of a pack, R tokens of the pack that the policy wrote
(`response_mask` true), in order of the trajectories. Environment tokens of multi-turn responses are in N but not in R:
they are part of the transition from one policy token to the next.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ValueAt = Literal["none", "first", "all"]
"""Where V_θ = logsumexp of the logits is wanted: nowhere, at the first policy token, at every one."""


@dataclass(frozen=True)
class GroupStats:
    """Rewards of all rollouts of one prompt."""

    mean: float
    std: float
    """With n - 1 in the denominator; 0 for a single rollout."""
    size: int
    soft_value: float
    """V̂(x) = log (1/n) Σ_i exp(r_i/β)."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One prompt, one response of T tokens, its reward, and its log-probs under other policies."""

    trajectory_id: str
    prompt_id: str
    """Unique over the mix; trajectories that share it form a group and may be paired."""
    prompt_ids: npt.NDArray[np.int32]
    response_ids: npt.NDArray[np.int32]
    """[T]"""
    response_mask: npt.NDArray[np.bool_]
    """[T] False marks tokens that the environment wrote."""
    reward: float
    """Outcome reward r(τ)."""
    ref_logprobs: npt.NDArray[np.floating[Any]]
    """[T] log π_ref(a_h|s_h)."""
    behavior_logprobs: npt.NDArray[np.floating[Any]] | None = None
    """[T] Log-probs under the policy that sampled the response, where they are known."""
    token_rewards: npt.NDArray[np.floating[Any]] | None = None
    """[T] r_h. None: the outcome reward on the last policy token."""
    ref_value_first: float | None = None
    """V_ref(s_1), logsumexp of the reference's logits at the first policy token."""
    source: str = "generation"
    """`generation`, or the name of the logged data set."""
    lag: int = 0
    """Generations between sampling and training."""
    truncated: bool = False
    """Cut at the length limit."""
    group: GroupStats | None = None


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Whole trajectories laid end to end in one row, positions starting at 0 for each."""

    trajectories: tuple[Trajectory, ...]
    """The B trajectories, in order."""
    input_ids: Tensor
    """[1, N]"""
    position_ids: Tensor
    """[1, N]"""
    boundaries: Tensor
    """[B + 1] int32, where each trajectory starts in N; the last entry is N."""
    longest: int
    """Tokens of the longest trajectory."""
    predict: Tensor
    """[R] Position in N whose hidden state predicts the policy token, one before the token's own."""
    targets: Tensor
    """[R] The policy tokens."""
    seq: Tensor
    """[R] Index in B of the token's trajectory; ascending."""
    first: Tensor
    """[B] Index in R of each trajectory's first policy token."""
    last: Tensor
    """[B] Index in R of each trajectory's last policy token."""
    lengths: tuple[int, ...]
    """Policy tokens of each trajectory; their sum is R."""
    ref_logprobs: Tensor
    """[R] log π_ref(a_h|s_h)."""
    behavior_logprobs: Tensor | None
    """[R] Log-probs under the policies that sampled; None unless every trajectory has them."""
    reward: Tensor
    """[B] fp64, outcome rewards."""
    token_reward: Tensor
    """[R] fp64, r_h: token rewards where given, else the outcome reward on the last policy token."""
    pairs: Tensor
    """[P, 2] Indices in B of two responses to one prompt; P = 0 unless pairs were asked for."""

    def per_trajectory(self, tokens: Tensor) -> Tensor:
        """[B] fp64, the sum of `tokens` [R] over each trajectory."""
        sums = torch.zeros(len(self.trajectories), dtype=torch.float64, device=tokens.device)
        return sums.index_add(0, self.seq, tokens.double())

    def to(self, device: torch.device | str) -> Self:
        """The same batch with every tensor on `device`."""
        tensors = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moved = {k: v.to(device, non_blocking=True) for k, v in tensors.items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Scores:
    """Per-token scores of a packed batch under the trained policy, and under the models an objective sets beside it."""

    logprob: Tensor
    """[R] lp_h = log π_θ(a_h|s_h), fp32 (fp64 for an fp64 model)."""
    value_first: Tensor | None = None
    """[B] V_θ(s_1)."""
    value: Tensor | None = None
    """[R] V_θ(s_h)."""
    entropy: Tensor | None = None
    """[R] Entropy of π_θ(·|s_h) in nats."""
    critic_value: Tensor | None = None
    """[R] V_φ(s_h) of a separate value model; the job fills it in."""
    target_value: Tensor | None = None
    """[R] V_{θ_t}(s_h) of the policy at the start of the generation, without gradient; the job fills it in."""
    old_logprob: Tensor | None = None
    """[R] log π_{θ_t}(a_h|s_h) of the policy at the start of the generation, without gradient; the job fills it in."""
