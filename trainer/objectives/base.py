"""What every objective builds on: its registration, and the quantities that several objectives share.

Shapes: a pack has B trajectories and R tokens that the policy wrote, in order of the trajectories. All sums are fp64,
because a residual is a small difference of large sums over a long response.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.training import OBJECTIVE_NEEDS, ObjectiveNeeds, TrainingConfig
from pipeline.errors import TbrmError
from pipeline.scoring.batch import GroupStats, PackedBatch, Scores, Trajectory, pair_units, unit_pairs

Loss = Callable[[Scores, PackedBatch, TrainingConfig], tuple[Tensor, Mapping[str, Tensor]]]
"""(scores, batch, options) to (the sum of the pack's terms, a scalar; detached metrics by name, each [B]).

A loss is a sum, not a mean, so that the sum over the packs of a batch does not depend on how the batch is cut.
"""
LOSSES: dict[str, Loss] = {}
"""The registered losses; `get` puts each together with its needs."""


@dataclass(frozen=True)
class Objective:
    """A loss and what it needs."""

    loss: Loss
    needs: ObjectiveNeeds

    def terms(self, trajectories: Sequence[Trajectory]) -> int:
        """Number of terms of a batch, at least 1: the sum of `loss` over all packs is divided by it."""
        match self.needs.mean_over:
            case "trajectories":
                count = len(trajectories)
            case "pairs":
                count = sum(len(unit_pairs(unit)) for unit in pair_units(trajectories))
            case "tokens":
                count = sum(int(t.response_mask.sum()) for t in trajectories)
        return max(count, 1)


def objective(name: str) -> Callable[[Loss], Loss]:
    """Register a loss as `training.objective: <name>`. The row `OBJECTIVE_NEEDS[name]` says what the loss needs."""

    def register(loss: Loss) -> Loss:
        if name not in OBJECTIVE_NEEDS:
            raise ValueError(f"{name} has no row in OBJECTIVE_NEEDS (pipeline/config/training.py): add one")
        LOSSES[name] = loss
        return loss

    return register


def get(name: str) -> Objective:
    """The objective that is registered as `name`."""
    return Objective(LOSSES[name], OBJECTIVE_NEEDS[name])


def given(values: Tensor | None, what: str) -> Tensor:
    """`values` in fp64. Raises TbrmError where neither the data nor the job supplied them."""
    if values is None:
        raise TbrmError(
            f"this objective needs {what}, which the batch does not have; choose another training.objective"
        )
    return values.double()


def group_stats(batch: PackedBatch) -> list[GroupStats]:
    """[B] For each trajectory, the statistics of all rewards of its prompt. Raises TbrmError where they are missing."""
    found: list[GroupStats] = []
    for trajectory in batch.trajectories:
        if trajectory.group is None:
            raise TbrmError(f"trajectory {trajectory.trajectory_id} of {trajectory.source} has no group of rollouts")
        found.append(trajectory.group)
    return found


def column(values: Sequence[float], batch: PackedBatch) -> Tensor:
    """`values` in fp64, on the device of the batch."""
    return torch.tensor(values, dtype=torch.float64, device=batch.reward.device)


def log_ratio(scores: Scores, batch: PackedBatch) -> Tensor:
    """[R] lp_h - ref_h."""
    return scores.logprob.double() - batch.ref_logprobs.double()


def next_value(values: Tensor, batch: PackedBatch) -> Tensor:
    """[R] V(s_{h+1}) from `values` [R] of V(s_h); 0 after a response's last policy token."""
    follows = torch.ones_like(values).index_fill(0, batch.last, 0.0)
    return torch.roll(values, -1) * follows


def suffix_sum(tokens: Tensor, batch: PackedBatch) -> Tensor:
    """[R] Σ_{h'≥h} tokens_{h'} within each trajectory."""
    upto = tokens.cumsum(0)
    return upto.index_select(0, batch.last).index_select(0, batch.seq) - upto + tokens


def one_step_loss(
    values: Tensor, scores: Scores, batch: PackedBatch, options: TrainingConfig
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Σ_i Σ_h δ_h², with the soft Bellman residual δ_h of a single transition and `values` [R] as V.

    δ_h = V(s_h) + lp_h - ref_h - r_h/β - V(s_{h+1}), and V(s_{H+1}) = 0. Without token rewards the outcome is r_H.
    Metrics: residual (Σ_h δ_h, in which every V but the first cancels), value_first, logratio.
    """
    ratio = log_ratio(scores, batch)
    residual = values + ratio - batch.token_reward / options.beta - next_value(values, batch)
    return residual.square().sum(), {
        "residual": batch.per_trajectory(residual.detach()),
        "value_first": values.detach().index_select(0, batch.first),
        "logratio": batch.per_trajectory(ratio.detach()),
    }


def multi_step_loss(
    values: Tensor, scores: Scores, batch: PackedBatch, options: TrainingConfig
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Σ_i Σ_h δ_h², with the soft Bellman residual δ_h of all transitions from s_h to the end and `values` [R] as V.

    δ_h = V(s_h) + Σ_{h'≥h} (lp_{h'} - ref_{h'} - r_{h'}/β). Metrics: residual (δ_1), value_first, logratio.
    """
    ratio = log_ratio(scores, batch)
    residual = values + suffix_sum(ratio - batch.token_reward / options.beta, batch)
    return residual.square().sum(), {
        "residual": residual.detach().index_select(0, batch.first),
        "value_first": values.detach().index_select(0, batch.first),
        "logratio": batch.per_trajectory(ratio.detach()),
    }


def trajectory_loss(
    values: Tensor, scores: Scores, batch: PackedBatch, options: TrainingConfig
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Σ_i δ_i², with one residual δ_i = V + Σ_h (lp_h - ref_h) - r(τ_i)/β for each trajectory and `values` [B] as V.

    Two options change Eq. 4 here. `length_normalized` divides δ_i by the number of its policy tokens. With
    `residual_clip: c` the square continues beyond ±c as its tangent. Metrics: residual (as it enters the loss),
    value_first, logratio.
    """
    ratio = batch.per_trajectory(log_ratio(scores, batch))
    residual = values + ratio - batch.reward / options.beta
    if options.length_normalized:
        residual = residual / column(batch.lengths, batch)
    if options.residual_clip is None:
        loss = residual.square().sum()
    else:
        # huber_loss is half of what we want: x²/2 inside, c|x| - c²/2 beyond.
        zero = torch.zeros_like(residual)
        loss = 2 * torch.nn.functional.huber_loss(residual, zero, reduction="sum", delta=options.residual_clip)
    return loss, {"residual": residual.detach(), "value_first": values.detach(), "logratio": ratio.detach()}
