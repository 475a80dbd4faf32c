"""95% intervals for accuracies measured on k samples to each of P problems, and for differences of two policies.

The estimand is the accuracy over the population that the problems were drawn from, so that both levels of chance
count: which problems were asked, and which responses were sampled. Treating all P·k samples as independent gives
intervals far too short; Student's interval of the problem means fails near 0 and 1 with 30 problems (it covers 48%
where 95% is claimed). How often these cover: benchmarks/interval_coverage.py.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Floats = NDArray[np.float64]

_MEANS = 768
_CORRELATIONS = 32
_GUARD = 3.0
"""Chance of missing that the guard of `accuracy_interval` may have, as a multiple of the interval's own."""
_UNSEEN_ONE, _UNSEEN_MORE = 0.5, 0.4
"""How much of a problem that is gained as a whole, and of one that is lost, the paired interval adds to what was seen:
with one sample to a problem (as Jeffreys' prior has it), and with more. The least that covers 93% for every population
of benchmarks/interval_coverage.py."""


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


def accuracy_interval(correct: Floats, level: float = LEVEL) -> Interval:
    """Interval of the mean of `correct` [P, k], values in [0, 1].

    For k = 1 the Jeffreys interval of a proportion. For k > 1 its two-level form: problem i is solved with chance
    p_i ~ Beta(mean m, correlation rho), its k samples are flips of p_i, and the interval is that of m's posterior under
    m ~ Beta(1/2, 1/2) and rho ~ Beta(1, 1/2), with rho integrated out. rho = 0: all problems alike, P·k flips count;
    rho = 1: a problem is solved always or never, P flips count.

    Difficulties need not be Beta (half of the problems may be hopeless): the interval is widened, where it must be, to
    hold the one that the spread of problem means alone gives with three times the chance of missing.
    """
    problems, samples = correct.shape
    mean = float(correct.mean())
    if samples == 1:
        return share_interval(mean, problems, level)
    sums, counts = np.unique(np.round(correct.sum(axis=1), 9), return_counts=True)
    posterior = _posterior(sums, counts, samples)
    edges = np.sin(np.linspace(0, math.pi / 2, _MEANS + 1)) ** 2
    cumulative = np.concatenate([[0.0], np.cumsum(posterior)])
    low, high = np.interp([(1 - level) / 2, (1 + level) / 2], cumulative / cumulative[-1], edges)
    spread = _spread_interval(correct.mean(axis=1), samples, 1 - _GUARD * (1 - level))
    return _around(mean, min(float(low), spread.low), max(float(high), spread.high))


def _spread_interval(means: Floats, samples: int, level: float) -> Interval:
    """Jeffreys interval of as many coin flips as spread like the problem means [P] (Kish's design effect).

    It covers too rarely near 0 and 1, where a few problems cannot show their spread, so it is a guard only.
    """
    mean, problems = float(means.mean()), len(means)
    flips = mean * (1 - mean)
    if flips <= 0:
        return Interval(mean, mean, mean)  # nothing is known about the spread
    design = min(max(float(means.var()) / flips, 1.0 / samples), 1.0)
    return share_interval(mean, problems / design, level)


def share_interval(mean: float, n: float, level: float = LEVEL) -> Interval:
    """Jeffreys interval of the mean of n numbers in [0, 1]: quantiles of Beta(n·mean + 1/2, n·(1 - mean) + 1/2).

    Right for zeros and ones; for fractions (pass@k, partial credit) it is too wide rather than too short, because none
    spreads more than zeros and ones of the same mean.
    """
    from scipy.special import betaincinv  # not scipy.stats, which takes a second to import

    a, b = n * mean + 0.5, n * (1 - mean) + 0.5
    low, high = betaincinv(a, b, [(1 - level) / 2, (1 + level) / 2])
    return _around(mean, float(low), float(high))


def mean_interval(values: Floats, level: float = LEVEL) -> Interval:
    """Student interval of the mean of one number a problem [P], such as a length."""
    from scipy.special import stdtrit

    mean, problems = float(values.mean()), len(values)
    if problems < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(stdtrit(problems - 1, (1 + level) / 2)) * float(values.std(ddof=1)) / math.sqrt(problems)
    return Interval(mean, mean - half, mean + half)


def difference_interval(a: Floats, b: Floats, level: float = LEVEL) -> Interval:
    """Interval of accuracy(b) - accuracy(a), [P, k] each on the same problems in the same order; k may differ.

    Problems are paired: what makes a problem hard for both policies does not widen the interval. Gains and losses of
    problems are two means of numbers in [0, 1]. Each gets a posterior in which a little of a problem that was gained
    or lost as a whole is added to what was seen: training turns a few problems from never to always, and 30 problems
    may hold none of them. Student's interval of the differences, which believes that nothing is there beyond what was
    seen, covers 59% where 3% of the problems turn.

    The two intervals are joined by square-and-add with the correlation of their means (Newcombe 1998).
    """
    change = b.mean(axis=1) - a.mean(axis=1)
    unseen = _UNSEEN_ONE if min(a.shape[1], b.shape[1]) == 1 else _UNSEEN_MORE
    gain = _one_sided(np.maximum(change, 0.0), unseen, level)
    loss = _one_sided(np.maximum(-change, 0.0), unseen, level)
    correlation = gain.posterior_mean * loss.posterior_mean / gain.weight / math.sqrt(gain.variance * loss.variance)

    def joined(x: float, y: float) -> float:
        return math.sqrt(x * x + 2 * correlation * x * y + y * y)

    value = gain.mean - loss.mean
    down = joined(gain.mean - gain.low, loss.high - loss.mean)
    up = joined(gain.high - gain.mean, loss.mean - loss.low)
    return Interval(value, max(value - down, -1.0), min(value + up, 1.0))


@dataclass(frozen=True)
class _OneSided:
    """Mean of gains (or of losses) with its interval; mean, variance and weight of the posterior behind it."""

    mean: float
    low: float
    high: float
    posterior_mean: float
    variance: float
    weight: float


def _one_sided(values: Floats, unseen: float, level: float) -> _OneSided:
    """Posterior of the mean of numbers in [0, 1] when problems are weighed by Dirichlet(1, …, 1; unseen at 0 and at 1).

    Its mean and variance are exact; a Beta with the same two gives the ends. For zeros and ones and `unseen` 1/2 that
    is Jeffreys' interval.
    """
    from scipy.special import betaincinv

    total = len(values) + 2 * unseen
    mean = (float(values.sum()) + unseen) / total
    square = (float((values * values).sum()) + unseen) / total
    variance = (square - mean * mean) / (total + 1)
    size = mean * (1 - mean) / variance - 1
    low, high = betaincinv(mean * size, (1 - mean) * size, [(1 - level) / 2, (1 + level) / 2])
    seen = _around(float(values.mean()), float(low), float(high))
    return _OneSided(seen.value, seen.low, seen.high, mean, variance, total + 1)


def _around(mean: float, low: float, high: float) -> Interval:
    """The interval, down to 0 or up to 1 where nothing else was observed; it always holds its own estimate."""
    return Interval(mean, 0.0 if mean <= 0 else min(low, mean), 1.0 if mean >= 1 else max(high, mean))


def _posterior(sums: Floats, counts: NDArray[np.int64], samples: int) -> Floats:
    """Posterior of m on the grid [M], not normalized, from how many problems (`counts`) have which sum of samples."""
    whole = np.equal(np.mod(sums, 1), 0).all()
    table = _likelihood_of_counts(samples)[sums.astype(np.int64)] if whole else _likelihood(sums, samples)
    logs = np.tensordot(counts.astype(np.float64), table, axes=1) + _log_prior()  # [M, R]
    return np.exp(logs - logs.max()).sum(axis=1)


@functools.lru_cache(maxsize=4)
def _likelihood_of_counts(samples: int) -> Floats:
    """`_likelihood` of 0 to `samples` right answers."""
    return _likelihood(np.arange(samples + 1, dtype=np.float64), samples)


def _likelihood(sums: Floats, samples: int) -> Floats:
    """Log of the beta-binomial likelihood of each sum at each (m, rho) [S, M, R], up to a constant of the sum."""
    from scipy.special import gammaln

    mean, correlation = _grid()
    size = 1 / correlation - 1
    a, b = mean[:, None] * size, (1 - mean)[:, None] * size  # [M, R]
    norm = gammaln(a + b) - gammaln(samples + a + b) - gammaln(a) - gammaln(b)
    return np.stack([gammaln(s + a) + gammaln(samples - s + b) + norm for s in sums])


def _grid() -> tuple[Floats, Floats]:
    """Midpoints of cells that are equal in Beta(1/2, 1/2), of m [M] and of rho [R]."""
    angles = [(np.arange(n) + 0.5) / n * math.pi / 2 for n in (_MEANS, _CORRELATIONS)]
    mean, correlation = (np.sin(angle) ** 2 for angle in angles)
    return mean, correlation


def _log_prior() -> Floats:
    """Log prior of a cell [R]: the grid is uniform in Beta(1/2, 1/2), for rho the prior is Beta(1, 1/2)."""
    return 0.5 * np.log(_grid()[1])
