"""How often the stated 95% intervals hold the truth, on simulated policies whose accuracy is known.

`python -m benchmarks.interval_coverage` writes benchmarks/results/interval_coverage.json. A policy is a population of
problem difficulties of one shape; its accuracy is drawn anew in each trial from a range, because for one fixed
accuracy near 0 or 1 the coverage of any interval jumps with the few counts that 30 problems can give.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evals.statistics.intervals import accuracy_interval, difference_interval, mean_interval

RANGES = ((0.0, 0.05), (0.05, 0.2), (0.2, 0.8), (0.8, 0.95), (0.95, 1.0))
SHAPES = ("alike", "beta_5", "beta_1", "beta_0.3", "logit_normal", "some_impossible", "always_or_never")
DESIGNS = ((30, 1), (30, 4), (30, 32), (40, 32), (272, 1))
PAIRED = ((30, 1), (30, 4), (30, 32), (272, 1))
POOL = 20_000
LEVELS = (-4.0, -2.0, 0.0, 3.0)
Floats = NDArray[np.float64]


def difficulties(shape: str, accuracy: float, problems: int, rng: np.random.Generator) -> Floats:
    """Chances [P] of solving each problem, from a population whose mean is `accuracy`."""
    if shape == "alike":
        return np.full(problems, accuracy)
    if shape.startswith("beta_"):
        size = float(shape.removeprefix("beta_"))
        return rng.beta(max(accuracy * size, 1e-9), max((1 - accuracy) * size, 1e-9), problems)
    if shape == "always_or_never":
        return (rng.random(problems) < accuracy).astype(np.float64)
    if shape == "some_impossible":  # (or, above 1/2, some that nobody misses) and the others Beta(2, 2)
        rare = min(accuracy, 1 - accuracy)
        solvable = np.where(rng.random(problems) < 2 * rare, rng.beta(2, 2, problems), 0.0)
        return solvable if accuracy < 0.5 else 1 - solvable
    return logistic(2 * rng.normal(size=problems) + shift_for(accuracy))


def logistic(z: Floats) -> Floats:
    return 1 / (1 + np.exp(-z))


_Z = np.linspace(-6, 6, 2_001)
_WEIGHT = np.exp(-0.5 * _Z**2) / np.exp(-0.5 * _Z**2).sum()
_SHIFTS = np.linspace(-16, 16, 801)
_MEANS = np.array([float((_WEIGHT * logistic(2 * _Z + shift)).sum()) for shift in _SHIFTS])


def shift_for(accuracy: float) -> float:
    """The shift at which logistic(2·N(0,1) + shift) has this mean."""
    return float(np.interp(accuracy, _MEANS, _SHIFTS))


def single_coverage(problems: int, samples: int, trials: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """Coverage by range of accuracy and shape of the population; beside it that of the normal interval."""
    rows: list[dict[str, object]] = []
    for low, high in RANGES:
        for shape in SHAPES if samples > 1 else SHAPES[:1]:  # with one sample only the mean matters
            covered, normal, width = 0, 0, 0.0
            for _ in range(trials):
                truth = rng.uniform(low, high)
                chances = difficulties(shape, truth, problems, rng)
                correct = (rng.random((problems, samples)) < chances[:, None]).astype(np.float64)
                found, plain = accuracy_interval(correct), mean_interval(correct.mean(axis=1))
                covered += found.low <= truth <= found.high
                normal += plain.low <= truth <= plain.high
                width += found.high - found.low
            rows.append(
                {
                    "problems": problems,
                    "samples": samples,
                    "accuracy": [low, high],
                    "population": shape,
                    "coverage": round(covered / trials, 4),
                    "student_coverage": round(normal / trials, 4),
                    "mean_width": round(width / trials, 4),
                }
            )
    return rows


FLIPS = ((0.03, 0.0), (0.05, 0.0), (0.1, 0.0), (0.2, 0.0), (0.05, 0.05), (0.1, 0.03), (0.03, 0.01))
"""Shares of problems that go from never to always, and from always to never: what training does most often."""
SMOOTH = ((1.5, 0.0, 1.0), (1.5, 0.7, 0.5), (4.0, 0.0, 0.0), (4.0, 0.7, 0.5))


def paired_populations(rng: np.random.Generator) -> list[tuple[str, Floats, Floats]]:
    """(name, chances before, chances after) of pools of problems."""
    found: list[tuple[str, Floats, Floats]] = []
    for level in LEVELS:
        for spread, shift, noise in SMOOTH:
            z = level + spread * rng.normal(size=POOL)
            after = logistic(z + shift + noise * rng.normal(size=POOL))
            found.append((f"level {level:g}, spread {spread:g}, shift {shift:g}, noise {noise:g}", logistic(z), after))
    for start in ("always or never", "of all chances"):
        for up, down in FLIPS:
            before = (
                (rng.random(POOL) < 0.4).astype(float) if start[0] == "a" else logistic(2 * rng.normal(size=POOL) - 1)
            )
            which = rng.random(POOL)
            gained, lost = which < up, (which >= up) & (which < up + down)
            turned = np.where(gained, 0.0, np.where(lost, 1.0, before))
            after = np.where(gained, 1.0, np.where(lost, 0.0, before))
            found.append((f"{start}, {up:.0%} gained, {down:.0%} lost", turned, after))
    return found


def paired_coverage(problems: int, samples: int, trials: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """Coverage of the difference of two policies whose difficulties go together."""
    rows: list[dict[str, object]] = []
    for name, pool_a, pool_b in paired_populations(rng):
        truth = float(pool_b.mean() - pool_a.mean())
        covered, student, width = 0, 0, 0.0
        for _ in range(trials):
            asked = rng.integers(0, POOL, problems)
            a, b = (
                (rng.random((problems, samples)) < pool[asked][:, None]).astype(np.float64) for pool in (pool_a, pool_b)
            )
            found, plain = difference_interval(a, b), mean_interval(b.mean(axis=1) - a.mean(axis=1))
            covered += found.low <= truth <= found.high
            student += plain.low <= truth <= plain.high
            width += found.high - found.low
        rows.append(
            {
                "problems": problems,
                "samples": samples,
                "population": name,
                "accuracy_a": round(float(pool_a.mean()), 3),
                "difference": round(truth, 4),
                "coverage": round(covered / trials, 4),
                "student_coverage": round(student / trials, 4),
                "mean_width": round(width / trials, 4),
            }
        )
    return rows


def pooled(rows: list[dict[str, object]], keys: tuple[str, ...]) -> list[dict[str, object]]:
    """Mean coverage over the populations of each combination of `keys`, and the lowest of them."""
    groups: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row[key] for key in keys]), []).append(row)
    found: list[dict[str, object]] = []
    for group in groups.values():
        coverages = [float(str(row["coverage"])) for row in group]
        found.append(
            {key: group[0][key] for key in keys}
            | {"coverage": round(float(np.mean(coverages)), 4), "lowest": min(coverages), "highest": max(coverages)}
            | {"mean_width": round(float(np.mean([float(str(row["mean_width"])) for row in group])), 4)}
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1_500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "interval_coverage.json")
    parser.add_argument("--paired-only", action="store_true", help="Keep the single intervals' figures of --out.")
    options = parser.parse_args()
    started = time.monotonic()
    rng = np.random.default_rng(20_261_124)
    trials_single = options.trials
    if options.paired_only:
        before = json.loads(options.out.read_text(encoding="utf-8"))
        single: list[dict[str, object]] = before["single"]
        trials_single = before["trials_each"]
    else:
        single = [row for p, k in DESIGNS for row in single_coverage(p, k, options.trials, rng)]
    paired = [row for p, k in PAIRED for row in paired_coverage(p, k, options.trials, rng)]
    pooled_rows = [
        pooled(single, ("problems", "samples", "accuracy")),
        pooled(paired, ("problems", "samples")),
    ]
    result = {
        "what": "share of simulated evaluations whose 95% interval holds the true accuracy (single) or difference",
        "trials_each": trials_single,
        "trials_each_paired": options.trials,
        "standard_error_of_a_coverage": round((0.95 * 0.05 / options.trials) ** 0.5, 4),
        "seconds": round(time.monotonic() - started, 1),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()},
        "single_pooled": pooled_rows[0],
        "paired_pooled": pooled_rows[1],
        "single": single,
        "paired": paired,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in [*pooled_rows[0], *pooled_rows[1]]:
        print(row)  # noqa: T201


if __name__ == "__main__":
    main()
