"""The study `theory`: Lemma 1 and Theorem 2 on tables, where every expectation is exact."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from assets.studies.change_of_measure import random_ratios
from assets.studies.coverage import BETA, SHARES, SIZES, behaviour, fit_sample, problem
from assets.studies.identities import largest_errors
from assets.studies.statistics import over_seeds

BETAS = (0.002, 0.02, 0.2, 2.0)
_FIRST_OF_SLOPE = 1_000
"""Smaller data sets leave parts of the table without a single trajectory, and no rate has begun."""


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
