"""The two-armed bandit on which iterating a regression stays at the worse Q while TBRM goes to the better one.

Q† = (0, 0), Q* = (10, 0), β = 0.1, both arms equally often in the data. The reference is uniform and the rewards absorb
it, so that r/β + log π_ref = (10, 0).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from assets.studies.tabular import Cells, Tree, cells, scores_at, trajectories, weighted
from pipeline.config.training import ObjectiveName, TrainingConfig
from pipeline.scoring.batch import PackedBatch
from pipeline.scoring.packing import lay_out
from trainer.objectives import get

BETA = 0.1
WORSE, BETTER = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[10.0, 0.0]]).double()
Class = Literal["two", "line", "table"]
"""`two`: Q is one of Q†, Q*. `line`: Q = (x, 0). `table`: any two logits."""


@dataclass(frozen=True)
class Bandit:
    """Both arms once, laid out for the losses."""

    batch: PackedBatch
    at: Cells
    options: TrainingConfig

    def loss(self, objective: ObjectiveName, table: Tensor, frozen: Tensor, weights: Tensor) -> Tensor:
        """Mean loss of the arms by `weights` [2]; `frozen` is the table whose V a target takes."""
        target = scores_at(self.at, frozen, self.batch).value
        scores = replace(scores_at(self.at, table, self.batch), target_value=target)
        return get(objective).loss(*weighted(scores, self.batch, weights), self.options)[0]


def bandit() -> Bandit:
    """The bandit of the appendix."""
    tree = Tree(actions=2, horizon=1)
    rewards = [BETA * (10 + math.log(2)), BETA * math.log(2)]
    batch = lay_out(trajectories(tree, [(0,), (1,)], lambda r: rewards[r[0]], torch.zeros(1, 2).double()))
    return Bandit(batch, cells(tree, batch), TrainingConfig(beta=BETA))


def gap(table: Tensor) -> float:
    """J_β(π*) - J_β(π) = β KL(π ‖ π*)."""
    logp, best = table.log_softmax(1), BETTER.log_softmax(1)
    return BETA * float((logp.exp() * (logp - best)).sum())


def choices(objective: ObjectiveName, iterations: int = 10) -> list[str]:
    """In the class of two: which of them has the least loss, at each iteration, starting from Q†."""
    problem, both, now, chosen = bandit(), {"worse": WORSE, "better": BETTER}, WORSE, list[str]()
    half = torch.tensor([0.5, 0.5])
    for _ in range(iterations):
        losses = {name: float(problem.loss(objective, table, now, half)) for name, table in both.items()}
        chosen.append(min(losses, key=losses.__getitem__))
        now = both[chosen[-1]]
    return chosen


def descend(
    objective: ObjectiveName,
    kind: Class,
    steps: int,
    refresh: int,
    rate: float,
    seed: int | None = None,
) -> list[float]:
    """Gaps before each step and after the last of gradient descent from Q†: a small `rate` follows the gradient flow.

    `refresh` steps make an iteration, after which the target's V is the current one. Without `seed` the loss is the
    exact expectation; with it each step draws one arm.
    """
    problem, rng = bandit(), np.random.default_rng(seed)
    free = torch.zeros(1, 1 if kind == "line" else 2, dtype=torch.float64, requires_grad=True)

    def table() -> Tensor:
        return torch.cat([free, torch.zeros_like(free)], 1) if kind == "line" else free

    frozen, gaps = table().detach().clone(), [gap(table().detach())]
    half = torch.tensor([0.5, 0.5])
    for step in range(steps):
        if step % refresh == 0:
            frozen = table().detach().clone()
        weights = half if seed is None else torch.eye(2)[rng.integers(2)]
        (slope,) = torch.autograd.grad(problem.loss(objective, table(), frozen, weights), free)
        with torch.no_grad():
            free -= rate * slope
        gaps.append(gap(table().detach()))
    return gaps
