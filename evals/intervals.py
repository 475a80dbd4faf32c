"""95% intervals for accuracies measured on k samples to each of P problems, and for differences of two policies.

The estimand is the accuracy over the population that the problems were drawn from. Problem means are independent of
each other, samples to one problem are not; the spread of the problem means holds both levels of chance, since
Var(mean of a problem) = Var(its difficulty) + E[variance of its samples] / k. Treating all P·k samples as independent
would give intervals that are far too short, resampling samples within resampled problems ones that are too long.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def percent(self) -> str:
        """`43.4 [41.9, 45.0]`, in percent."""
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def accuracy_interval(correct: Floats) -> Interval:
    """Interval of the mean of `correct` [P, k], values in [0, 1].

    The Jeffreys interval of P/deff problems, deff being the spread of the problem means over that of P coin flips
    (Kish's design effect): for k = 1 it is the plain Jeffreys interval of a proportion.
    """
    means = correct.mean(axis=1)
    effective = effective_problems(means, correct.shape[1])
    return jeffreys(float(means.mean()), effective)


def effective_problems(means: Floats, samples: int) -> float:
    """Number of coin flips whose mean spreads as that of the problem means [P]: between P and P·samples."""
    problems, mean = len(means), float(means.mean())
    flips = mean * (1 - mean)
    if problems < 2 or flips <= 0:
        return float(problems)  # nothing is known about the spread: samples of a problem count as one
    deff = float(means.var()) / flips
    return problems / min(1.0, max(deff, 1.0 / samples))


def jeffreys(mean: float, n: float) -> Interval:
    """Interval of a proportion: quantiles of Beta(n·mean + 1/2, n·(1 - mean) + 1/2), open to 0 or 1 at the ends."""
    from scipy.stats import beta

    a, b = n * mean + 0.5, n * (1 - mean) + 0.5
    tail = (1 - LEVEL) / 2
    low = 0.0 if mean <= 0 else float(beta.ppf(tail, a, b))
    high = 1.0 if mean >= 1 else float(beta.ppf(1 - tail, a, b))
    return Interval(mean, min(low, mean), max(high, mean))


def mean_interval(values: Floats) -> Interval:
    """Student interval of the mean of one number a problem [P] (a length, a difference)."""
    from scipy.stats import t

    mean, problems = float(values.mean()), len(values)
    if problems < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(t.ppf((1 + LEVEL) / 2, problems - 1)) * float(values.std(ddof=1)) / math.sqrt(problems)
    return Interval(mean, mean - half, mean + half)


def difference_interval(a: Floats, b: Floats) -> Interval:
    """Interval of accuracy(b) - accuracy(a), both [P, k] on the same problems in the same order; k may differ.

    Problems are paired: what makes a problem hard for both policies does not widen the interval.
    """
    differences = b.mean(axis=1) - a.mean(axis=1)
    found = mean_interval(differences)
    return Interval(found.value, max(found.low, -1.0), min(found.high, 1.0))
