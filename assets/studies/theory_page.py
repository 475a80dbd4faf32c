"""The page of the study `theory`."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from assets.studies.coverage import SHARES, SIZES
from assets.studies.exact import ExactStudy, markdown_table
from assets.studies.statistics import shown
from assets.studies.theory import run_theory


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
    """Geometric means over seeds with their standard errors, of gap and bound."""
    groups = [[r for r in fits if r[along] == value and all(r[k] == v for k, v in where.items())] for value in values]
    xs = [float(np.exp(np.mean(np.log([r[x] for r in g])))) for g in groups]
    for name, style in (("gap", "o-"), ("bound", ":")):
        logs = [np.log([r[name] for r in g]) for g in groups]
        middle = [float(np.exp(v.mean())) for v in logs]
        axis.plot(xs, middle, style, ms=3, color=f"C{color}", label=label if name == "gap" else None)
        if name == "gap":
            error = [float(v.std(ddof=1) / np.sqrt(len(v))) for v in logs]
            low = [m * np.exp(-2 * e) for m, e in zip(middle, error, strict=True)]
            high = [m * np.exp(2 * e) for m, e in zip(middle, error, strict=True)]
            axis.fill_between(xs, low, high, color=f"C{color}", alpha=0.15, lw=0)


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
