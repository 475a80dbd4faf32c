"""Theorem 2, exactly: what TBRM's minimizer loses against π*, by sample size and by coverage of the data."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from assets.studies.layered import Layered, random_layered
from assets.studies.tabular import Cells, cells, scores_at, weighted
from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import PackedBatch
from trainer.objectives import get

BETA = 0.25
SIZES = tuple(round(10 ** (2 + i / 2)) for i in range(7))
"""Trajectories of a data set, 10^2 to 10^5."""
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Part of the data that π* wrote; a policy far from it, which seeks the worst responses, wrote the rest."""
_AWAY = 8.0
"""How much harder the far policy seeks the worst than π* seeks the best."""


@dataclass(frozen=True)
class Data:
    """A behaviour distribution and how well it covers π*."""

    chance: Tensor
    """[responses]"""
    chi2_trajectory: float
    """1 + χ²(π* ‖ μ) over whole trajectories."""
    chi2_state_action: float
    """Largest 1 + χ²(d*_h ‖ d^μ_h) over the steps."""
    concentrability: float
    """Largest d*_h(s,a) / d^μ_h(s,a)."""


@dataclass(frozen=True)
class Fit:
    """One data set's TBRM minimizer."""

    gap: float
    """J_β(π*) - J_β(π̂)."""
    kl_gap: float
    """β KL(π̂ ‖ π*), which is the same number by another way."""
    bound: float
    """β (√(1+χ²(π̂‖μ)) + √(1+χ²(π*‖μ))) √E_μ[δ²], δ the true residual of π̂: Cauchy-Schwarz on the same identity."""
    gradient: float
    """Largest slope of the mean loss at the minimizer: how exactly it was found."""


def behaviour(mdp: Layered, star: Tensor, share: float) -> Data:
    """`share` of π*, the rest of the policy with the preferences of π* over π_ref turned around and made stronger."""
    best, ref = mdp.all_logprobs(star), mdp.all_logprobs(mdp.ref)
    far = (ref - _AWAY * (best - ref)).softmax(0)
    best, chance = best.exp(), share * best.exp() + (1 - share) * far
    occupied, data = mdp.occupancy(best), mdp.occupancy(chance)
    ratio = torch.where(occupied > 0, occupied / data, 0)
    return Data(
        chance=chance,
        chi2_trajectory=float((best.square() / chance).sum()),
        chi2_state_action=float((occupied * ratio).sum((1, 2)).max()),
        concentrability=float(ratio.max()),
    )


def fit_sample(mdp: Layered, star: Tensor, data: Data, size: int, seed: int, beta: float = BETA) -> Fit:
    """Minimize TBRM on `size` trajectories, each labelled 1 with chance r(τ), from the reference policy's logits."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(data.chance, size, replacement=True, generator=generator)
    right = torch.bernoulli(mdp.outcome[drawn], generator=generator)
    counts = torch.zeros_like(data.chance).index_add_(0, drawn, torch.ones_like(right))
    labels = torch.zeros_like(counts).index_add_(0, drawn, right) / counts.clamp(min=1)
    batch = mdp.batch()
    table, slope = minimize_tbrm(cells(mdp, batch), _with_reward(batch, labels), counts / size, mdp.ref, beta)
    logp, best = mdp.all_logprobs(table), mdp.all_logprobs(star)
    value = table[0].logsumexp(0)
    error = value + logp - mdp.all_logprobs(mdp.ref) - mdp.outcome / beta
    moment = float((data.chance * error.square()).sum())
    chi2_learned = float(((2 * logp).exp() / data.chance).sum())
    return Fit(
        gap=mdp.objective(star, beta) - mdp.objective(table, beta),
        kl_gap=beta * float((logp.exp() * (logp - best)).sum()),
        bound=beta * (math.sqrt(chi2_learned) + math.sqrt(data.chi2_trajectory)) * math.sqrt(moment),
        gradient=slope,
    )


def minimize_tbrm(at: Cells, batch: PackedBatch, weights: Tensor, start: Tensor, beta: float) -> tuple[Tensor, float]:
    """The table where Σ_i w_i residual_i² of the product's `tbrm` is least, by L-BFGS; and the largest slope there.

    Logits that no trajectory touches stay where `start` has them, as they would in training.
    """
    options, loss_of = TrainingConfig(beta=beta), get("tbrm").loss
    table = start.log_softmax(1).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [table],
        max_iter=600,
        history_size=60,
        tolerance_grad=1e-9,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = loss_of(*weighted(scores_at(at, table, batch), batch, weights), options)
        loss.backward()
        return loss

    optimizer.step(closure)
    closure()
    assert table.grad is not None
    return table.detach(), float(table.grad.abs().max())


def problem(seed: int, beta: float = BETA) -> tuple[Layered, Tensor]:
    """The MDP of this seed and its Q*."""
    mdp = random_layered(seed)
    return mdp, mdp.optimal(beta)


def _with_reward(batch: PackedBatch, labels: Tensor) -> PackedBatch:
    return replace(batch, reward=labels)
