"""The study `theory`: Lemma 1 and Theorem 2 on tables, where every expectation is exact.

What TBRM's minimizer loses against π*, by sample size and by how well the data cover π*.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from assets.studies.identities import largest_errors, random_ratios
from assets.studies.pages import ExactStudy, over_seeds, shown
from assets.studies.tabular import Cells, Layered, cells, random_layered, scores_at, weighted
from evals.report.chart import Point, Series, plot
from pipeline.config.training import TrainingConfig
from pipeline.markdown import markdown_table
from pipeline.scoring.batch import PackedBatch
from trainer.objectives import get

BETA = 0.25
SIZES = tuple(round(10 ** (2 + i / 2)) for i in range(7))
"""Trajectories of a data set, 10^2 to 10^5."""
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Part of the data that π* wrote; a policy far from it, which seeks the worst responses, wrote the rest."""
_AWAY = 8.0
"""How much harder the far policy seeks the worst than π* seeks the best."""
BETAS = (0.002, 0.02, 0.2, 2.0)
_FIRST_OF_SLOPE = 1_000
"""Smaller data sets leave parts of the table without a single trajectory, and no rate has begun."""


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
    table, slope = minimize_tbrm(cells(mdp, batch), replace(batch, reward=labels), counts / size, mdp.ref, beta)
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


def run_theory(seeds: Sequence[int], told: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Every number of the page. `told` hears of each finished seed."""
    rows = list[dict[str, Any]]()
    for seed in seeds:
        mdp, star = problem(seed)
        for share in SHARES:
            data = behaviour(mdp, star, share)
            for size in SIZES:
                fit = fit_sample(mdp, star, data, size, seed)
                rows.append(
                    {"seed": seed, "share": share, "n": size, "gap": fit.gap, "kl_gap": fit.kl_gap, "bound": fit.bound}
                    | {"chi2": data.chi2_state_action, "chi2_trajectory": data.chi2_trajectory}
                    | {"concentrability": data.concentrability, "slope_of_loss": fit.gradient}
                )
        told(f"seed {seed}")
    ratios = [random_ratios(seed) for seed in range(4 * len(seeds))]
    return {
        "beta": BETA,
        "seeds": list(seeds),
        "identities": largest_errors(seeds, BETAS),
        "lemma": {
            "mdps": len(ratios),
            "largest_share_of_bound": max(r.share_of_bound for r in ratios),
            "share_of_bound": over_seeds([r.share_of_bound for r in ratios]),
            "trajectory_over_supremum": over_seeds([r.trajectory / r.supremum for r in ratios]),
        },
        "slopes_in_n": [
            {"share": share, "chi2": over_seeds([r["chi2"] for r in _of(rows, share=share, n=SIZES[0])])}
            | _slopes([_of(rows, seed=seed, share=share) for seed in seeds], "n", _FIRST_OF_SLOPE)
            for share in SHARES
        ],
        "slopes_in_chi2": [
            {"n": size} | _slopes([_of(rows, seed=seed, n=size) for seed in seeds], "chi2")
            for size in SIZES
            if size >= _FIRST_OF_SLOPE
        ],
        "bound_violated": sum(r["gap"] > r["bound"] for r in rows),
        "largest_kl_gap_error": max(abs(r["gap"] - r["kl_gap"]) for r in rows),
        "fits": rows,
    }


def _of(rows: Sequence[dict[str, Any]], **where: Any) -> list[dict[str, Any]]:
    return [r for r in rows if all(r[k] == v for k, v in where.items())]


def _slopes(by_seed: Sequence[list[dict[str, Any]]], x: str, first: float = 0) -> dict[str, dict[str, float]]:
    """Log-log slope of gap and bound in `x`, fitted for each seed."""
    return {y: over_seeds([_slope(rows, x, y, first) for rows in by_seed]) for y in ("gap", "bound")}


def _slope(rows: Sequence[dict[str, Any]], x: str, y: str, first: float) -> float:
    kept = [r for r in rows if r[x] >= first]
    return float(np.polyfit(np.log([r[x] for r in kept]), np.log([r[y] for r in kept]), 1)[0])


def _tables(results: dict[str, Any]) -> str:
    lemma, errors, fits = results["lemma"], results["identities"], results["fits"]
    largest, smallest = SIZES[-1], SIZES[0]
    by_share = [
        [
            f"{row['share']:g}",
            shown(row["chi2"], 1),
            f"{_mean(fits, 'gap', row['share'], smallest):.2g}",
            f"{_mean(fits, 'gap', row['share'], largest):.2g}",
            f"{_mean(fits, 'bound', row['share'], largest):.2g}",
            shown(row["gap"]),
            shown(row["bound"]),
        ]
        for row in results["slopes_in_n"]
    ]
    by_size = [[f"{row['n']:,}", shown(row["gap"]), shown(row["bound"])] for row in results["slopes_in_chi2"]]
    return f"""## Identities and Lemma 1

Random MDPs of 4 layers with 4 states and 3 tokens, β from 0.002 to 2; errors in units of the reward:

{
        markdown_table(
            ["identity", "largest error"],
            [
                ["the steps' Bellman residuals sum to Eq. 4's residual", f"{errors['telescoping']:.1e}"],
                ["Eq. 4's residual of every response is 0 at Q*", f"{errors['zero_at_optimum']:.1e}"],
                ["J_β(π*) - J_β(π) = β KL(π ‖ π*)", f"{errors['gap_is_kl']:.1e}"],
            ],
        )
    }

Lemma 1: on {lemma["mdps"]} random MDPs with random transitions (horizon 4) the worst growth of E[(Σ_h f)²] from one
policy to another, over all functions f, is a generalized eigenvalue. It is at most
{lemma["largest_share_of_bound"]:.2f} of (horizon + 1) times the largest state-action density ratio (our reading of the
constant), and the ratio of whole trajectories, which the naive argument pays, is on average
{lemma["trajectory_over_supremum"]["mean"]:.0f} times the true growth.

## Theorem 2: sample size and coverage

TBRM is minimized on n trajectories of a behaviour policy, of which π* wrote a share and a policy that seeks the worst
responses the rest. A verifier says 1 with the response's chance r(τ), so labels are noisy; β = {results["beta"]:g}.
χ² is the largest 1 + χ²(d*_h ‖ d^μ_h) over the steps. The gap is J_β(π*) - J_β(π̂). The bound is
β (√(1+χ²(π̂‖μ)) + √(1+χ²(π*‖μ))) · √E_μ[δ²] with the exact coverages and the true residual δ of π̂. It
follows from J_β(π*) - J_β(π̂) ≤ β (E_π̂[δ] - E_π*[δ]) by Cauchy-Schwarz: our derivation, of the form of Theorem 2,
whose printed constant is not used. As E_μ[δ²] falls like 1/n, such a bound has slope -1/2 in n and +1/2 in coverage.

{
        markdown_table(
            [
                "share of π*",
                "χ²",
                f"gap, n = {smallest:,}",
                f"gap, n = {largest:,}",
                f"bound, n = {largest:,}",
                "slope of gap in n",
                "slope of bound in n",
            ],
            by_share,
        )
    }

{markdown_table(["n", "slope of gap in χ²", "slope of bound in χ²"], by_size)}

The gap vanishes for every behaviour policy that covers π*, even one that hardly ever writes a good response, and
worse coverage needs more trajectories: what Theorem 2 says. The gap was above the bound in
{results["bound_violated"]} of {len(fits)} fits. The rate is better than a bound of this form: about 1/n instead of
1/√n, and proportional to χ² instead of √χ². The reason is the last identity above: the gap is β KL(π̂ ‖ π*), quadratic
in the error of π̂, where the bound has a first power. Both agree on what coverage is worth: ten times worse coverage
costs about ten times the data for the same gap. Tables that can represent Q* exactly are the kindest case; the study
says nothing about function approximation.
"""


def _figure(results: dict[str, Any]) -> Figure:
    fits = results["fits"]
    figure = Figure(figsize=(10, 3.9), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for at, row in enumerate(results["slopes_in_n"]):
        _line(left, fits, "n", SIZES, {"share": row["share"]}, at, f"χ² = {row['chi2']['mean']:.1f}")
    for at, size in enumerate((SIZES[2], SIZES[4], SIZES[6])):
        _line(right, fits, "chi2", SHARES, {"n": size}, at, f"n = {size:,}", along="share")
    left.set_xlabel("trajectories n")
    right.set_xlabel("coverage 1 + χ² of state-action distributions")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", ylabel="J(π*) - J(π̂): gap (solid), bound (dotted)")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    return figure


def _line(
    axis: Any,
    fits: list[dict[str, Any]],
    x: str,
    values: tuple[float, ...],
    where: dict[str, float],
    color: int,
    label: str,
    along: str = "n",
) -> None:
    """Geometric means over seeds of the gap, within two standard errors, and of the bound."""
    groups = [[r for r in fits if r[along] == value and all(r[k] == v for k, v in where.items())] for value in values]
    xs = [float(np.exp(np.mean(np.log([r[x] for r in g])))) for g in groups]
    gaps = [np.log([r["gap"] for r in g]) for g in groups]
    means, errors = [v.mean() for v in gaps], [v.std(ddof=1) / np.sqrt(len(v)) for v in gaps]
    ends = ([float(np.exp(m + k * e)) for k in (0, -2, 2)] for m, e in zip(means, errors, strict=True))
    plot(axis, Series(label, [Point(x, *of) for x, of in zip(xs, ends, strict=True)]), color, band=True)
    bounds = [float(np.exp(np.mean(np.log([r["bound"] for r in g])))) for g in groups]
    axis.plot(xs, bounds, ":", color=f"C{color}")


def _mean(fits: list[dict[str, Any]], name: str, share: float, size: int) -> float:
    return float(np.mean([r[name] for r in fits if r["share"] == share and r["n"] == size]))


THEORY = ExactStudy(
    name="theory",
    title="theory: what TBRM's minimizer loses, by coverage and sample size",
    claim="A change of trajectory measure costs no more than the state-action coverage (Lemma 1), so minimizing Eq. 4 "
    "on data of any behaviour policy finds a near-optimal KL-regularized policy, at a rate that depends on how well "
    "the data covers π* (Theorem 2).",
    seeds=10,
    run=run_theory,
    tables=_tables,
    figure=_figure,
)
