"""The types of scoring: stored trajectories, packed micro-batches of them, and their scores.

Sizes: N tokens of a pack (prompts and responses), B trajectories of a pack, R tokens of the pack that the policy wrote
(`response_mask` true), in order of the trajectories. Environment tokens of multi-turn responses are in N but not in R:
they are part of the transition from one policy token to the next.

Packs hold whole trajectories end to end without padding, balanced by length under a token budget.
"""

import dataclasses
import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import TbrmError

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


_ALIGNED = ("response_mask", "ref_logprobs", "behavior_logprobs", "token_rewards")
Unit = tuple[int, ...]
"""Indices of trajectories that have to lie in one pack."""


def pack(
    trajectories: Sequence[Trajectory], token_budget: int, pairs: bool = False, multiple_of: int = 1
) -> list[PackedBatch]:
    """Cut a batch into packs of at most `token_budget` tokens, as few and as equal as greedy packing finds.

    It puts the longest first. Trajectories are never cut: one longer than the budget becomes a pack of its own. With
    `pairs`, two responses that meet in one term of the loss stay together and `PackedBatch.pairs` lists them. The
    number of packs is a multiple of `multiple_of` (the number of processes) where there are enough trajectories. The
    cut depends on the lengths and the order of the trajectories alone. Raises TbrmError for a trajectory without prompt
    or policy tokens.
    """
    for trajectory in trajectories:
        _check(trajectory)
    units = list(pair_units(trajectories)) if pairs else [(i,) for i in range(len(trajectories))]
    lengths = [sum(_tokens(trajectories[i]) for i in unit) for unit in units]
    packs: list[PackedBatch] = []
    for chosen in _balanced(lengths, token_budget, multiple_of):
        members = [i for u in sorted(chosen) for i in units[u]]
        place = {i: at for at, i in enumerate(members)}
        joined = [(place[a], place[b]) for u in sorted(chosen) for a, b in unit_pairs(units[u])] if pairs else []
        packs.append(lay_out([trajectories[i] for i in members], joined))
    return packs


def pair_units(trajectories: Sequence[Trajectory]) -> Iterator[Unit]:
    """Responses to one prompt, two by two in order of appearance; of an odd number the last unit has three.

    A response alone with its prompt is a unit of one, without any pair.
    """
    groups: dict[str, list[int]] = {}
    for i, trajectory in enumerate(trajectories):
        groups.setdefault(trajectory.prompt_id, []).append(i)
    for members in groups.values():
        ends = [*range(2, len(members) - 1, 2), len(members)]
        yield from (tuple(members[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True))


def unit_pairs(unit: Unit) -> list[tuple[int, int]]:
    """Neighbours within a unit: one pair of two responses, two of three, none of one."""
    return list(itertools.pairwise(unit))


def lay_out(trajectories: Sequence[Trajectory], pairs: Sequence[tuple[int, int]] = ()) -> PackedBatch:
    """One pack of these trajectories in this order; `pairs` are indices into it."""
    prompts = np.array([len(t.prompt_ids) for t in trajectories])
    responses = np.array([len(t.response_ids) for t in trajectories])
    lengths = prompts + responses
    boundaries = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate([part for t in trajectories for part in (t.prompt_ids, t.response_ids)])
    # From here on all responses lie end to end; `mask` says which of their tokens the policy wrote.
    mask = np.concatenate([t.response_mask for t in trajectories])
    seq = np.repeat(np.arange(len(trajectories)), responses)
    place = np.arange(len(mask)) + np.cumsum(prompts)[seq]  # of each response token in N
    counts = np.bincount(seq[mask], minlength=len(trajectories))
    behavior = [t.behavior_logprobs for t in trajectories if t.behavior_logprobs is not None]
    return PackedBatch(
        trajectories=tuple(trajectories),
        input_ids=_long(ids)[None],
        position_ids=_long(np.arange(len(ids)) - np.repeat(boundaries[:-1], lengths))[None],
        boundaries=torch.from_numpy(boundaries.astype(np.int32)),
        longest=int(lengths.max()),
        predict=_long(place[mask] - 1),  # a token is predicted from one position before its own
        targets=_long(ids[place[mask]]),
        seq=_long(seq[mask]),
        first=_long(np.cumsum(counts) - counts),
        last=_long(np.cumsum(counts) - 1),
        lengths=tuple(counts.tolist()),
        ref_logprobs=torch.from_numpy(np.concatenate([t.ref_logprobs for t in trajectories])[mask]),
        behavior_logprobs=torch.from_numpy(np.concatenate(behavior)[mask])
        if len(behavior) == len(trajectories)
        else None,
        reward=torch.tensor([t.reward for t in trajectories], dtype=torch.float64),
        token_reward=torch.from_numpy(_token_rewards(trajectories, counts)),
        pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
    )


def _token_rewards(trajectories: Sequence[Trajectory], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[R] r_h of each policy token: token rewards where given, else the outcome reward on the last one.

    A token reward on an environment token belongs to the policy token before it.
    """
    rewards = np.zeros(int(counts.sum()))
    ends = np.cumsum(counts)
    rewards[ends - 1] = [t.reward for t in trajectories]
    for trajectory, end, count in zip(trajectories, ends, counts, strict=True):
        if trajectory.token_rewards is not None:
            at = np.flatnonzero(trajectory.response_mask)
            rewards[end - count : end] = np.add.reduceat(trajectory.token_rewards.astype(np.float64), at)
    return rewards


def _balanced(lengths: Sequence[int], budget: int, multiple_of: int) -> list[list[int]]:
    """Indices of `lengths` in the fewest bins that longest-first into the emptiest bin can fill within the budget."""
    if not lengths:
        return []
    count = -(-sum(lengths) // budget)
    while True:
        count = min(-(-count // multiple_of) * multiple_of, len(lengths))
        bins = _greedy(lengths, count)
        # Where a bin of one item is over the budget, no cut can help.
        if count == len(lengths) or all(len(b) == 1 or sum(lengths[i] for i in b) <= budget for b in bins):
            return bins
        count += 1 + count // 50  # a step of 2%, so that thousands of trajectories take few tries


def _greedy(lengths: Sequence[int], count: int) -> list[list[int]]:
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, b) for b in range(count)]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, emptiest = loads[0]
        bins[emptiest].append(i)
        heapq.heapreplace(loads, (load + lengths[i], emptiest))
    return bins


def _tokens(trajectory: Trajectory) -> int:
    return len(trajectory.prompt_ids) + len(trajectory.response_ids)


def _check(trajectory: Trajectory) -> None:
    size = len(trajectory.response_ids)
    aligned = [
        trajectory.response_mask,
        trajectory.ref_logprobs,
        trajectory.behavior_logprobs,
        trajectory.token_rewards,
    ]
    for name, column in zip(_ALIGNED, aligned, strict=True):
        if column is not None and len(column) != size:
            raise TbrmError(
                f"trajectory {trajectory.trajectory_id} of {trajectory.source}: {name} has {len(column)} entries for "
                f"{size} response tokens; compute or import this column again"
            )
    if len(trajectory.prompt_ids) == 0 or not trajectory.response_mask.any():
        missing = "prompt tokens" if len(trajectory.prompt_ids) == 0 else "tokens written by the policy (response_mask)"
        raise TbrmError(
            f"trajectory {trajectory.trajectory_id} of {trajectory.source} has no {missing}, so nothing in it can be "
            "trained: drop the row from the data set"
        )


def _long(values: npt.NDArray[np.integer]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))
