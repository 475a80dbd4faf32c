"""Gradient descent of the value-based objectives on layered MDPs: direct optimization against iteration."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from assets.studies.coverage import BETA, problem
from assets.studies.tabular import cells, scores_at, weighted
from pipeline.config.training import ObjectiveName, TrainingConfig
from trainer.objectives import get

RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Step sizes that every objective is tried with; its best is reported."""
BATCH = 32
"""Trajectories of a sampled gradient."""


@dataclass(frozen=True)
class Curve:
    """One objective's way from the reference policy."""

    steps: tuple[int, ...]
    gaps: tuple[float, ...]
    """J_β(π*) - J_β(π) as a part of the reference policy's."""
    rate: float


@dataclass(frozen=True)
class Method:
    """What descends, and on what."""

    objective: ObjectiveName
    refresh: int = 1
    """Steps of an iteration: the target's V is that of the policy at its start. No effect without a target."""
    sampled: bool = False
    """Each step's gradient comes from BATCH drawn trajectories instead of the exact expectation."""
    dense: bool = False
    """Every token's own reward is known, instead of their sum at the last."""


def best_curve(method: Method, seed: int, at_steps: tuple[int, ...]) -> Curve:
    """The curve of the step size in RATES that ends lowest."""
    curves = [_curve(method, seed, at_steps, rate) for rate in RATES]
    return min(curves, key=lambda c: c.gaps[-1] if math.isfinite(c.gaps[-1]) else math.inf)


def _curve(method: Method, seed: int, at_steps: tuple[int, ...], rate: float) -> Curve:
    """Descent on data of the reference policy, from its logits."""
    mdp, star = problem(seed)
    best, first = mdp.objective(star, BETA), mdp.objective(mdp.ref, BETA)
    batch, options, loss_of = mdp.batch(), TrainingConfig(beta=BETA), get(method.objective).loss
    at, chance = cells(mdp, batch), mdp.all_logprobs(mdp.ref).exp()
    if method.dense:
        batch = replace(batch, token_reward=mdp.reward[at.rows, at.actions])
    generator = torch.Generator().manual_seed(seed)
    table, frozen, gaps = mdp.ref.clone().requires_grad_(), torch.empty(0), list[float]()
    for step in range(at_steps[-1] + 1):
        if step in at_steps:
            gaps.append((best - mdp.objective(table.detach(), BETA)) / (best - first))
        if step % method.refresh == 0:
            frozen = _values(table.detach(), at.rows)
        weights = _drawn(chance, generator) if method.sampled else chance
        scores = replace(scores_at(at, table, batch), target_value=frozen)
        (slope,) = torch.autograd.grad(loss_of(*weighted(scores, batch, weights), options)[0], table)
        with torch.no_grad():
            table -= rate * slope
    return Curve(at_steps, tuple(gaps), rate)


def _values(table: Tensor, rows: Tensor) -> Tensor:
    return table.logsumexp(1)[rows]


def _drawn(chance: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.multinomial(chance, BATCH, replacement=True, generator=generator)
    return torch.zeros_like(chance).index_add_(0, drawn, torch.full_like(chance[:1], 1 / BATCH).expand(BATCH))
