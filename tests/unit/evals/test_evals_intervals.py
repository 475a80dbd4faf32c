"""Intervals: exact where a closed form exists, right in their limits, and as wide as they should be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from benchmarks.interval_coverage import SHAPES, difficulties, shift_for
from evals.statistics.intervals import accuracy_interval, difference_interval, mean_interval, share_interval


def answers(rng: np.random.Generator, chances: np.ndarray, samples: int) -> np.ndarray:
    return (rng.random((len(chances), samples)) < chances[:, None]).astype(np.float64)


@pytest.mark.parametrize(("right", "problems"), [(3, 30), (15, 30), (200, 272)])
def test_one_sample_gives_the_jeffreys_interval(right: int, problems: int) -> None:
    correct = np.zeros((problems, 1))
    correct[:right] = 1
    found = accuracy_interval(correct)
    expected = beta.ppf([0.025, 0.975], right + 0.5, problems - right + 0.5)
    assert (found.low, found.high) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("samples", [1, 4, 32])
def test_nothing_right_and_everything_right(samples: int) -> None:
    none, all_ = (accuracy_interval(np.full((30, samples), value)) for value in (0.0, 1.0))
    assert none.value == none.low == 0
    assert 0 < none.high < 0.12
    assert all_.value == all_.high == 1
    assert all_.low == pytest.approx(1 - none.high, abs=1e-6)


def test_samples_that_always_agree_count_as_one() -> None:
    once = (np.arange(40) < 12).astype(np.float64)[:, None]
    single, repeated = accuracy_interval(once), accuracy_interval(np.repeat(once, 16, axis=1))
    assert repeated.low == pytest.approx(single.low, abs=0.02)
    assert repeated.high == pytest.approx(single.high, abs=0.02)


def test_samples_that_never_agree_more_than_chance_count_each() -> None:
    rng = np.random.default_rng(0)
    found = accuracy_interval(answers(rng, np.full(60, 0.4), 32))
    flips = share_interval(found.value, 60 * 32)
    assert found.high - found.low == pytest.approx(flips.high - flips.low, rel=0.35)


def test_hopeless_problems_do_not_shorten_the_interval() -> None:
    """Half hopeless, half even chances: no Beta looks like that, the spread of the problem means decides."""
    rng, covered, trials = np.random.default_rng(6), 0, 400
    for _ in range(trials):
        hopeless = rng.random(40) < 0.5
        found = accuracy_interval(answers(rng, np.where(hopeless, 0.0, rng.beta(2, 2, 40)), 32))
        covered += found.low <= 0.25 <= found.high
    assert covered / trials > 0.91


@given(
    st.integers(2, 40), st.integers(1, 8), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.97, 1.0])
)
@settings(max_examples=60, deadline=None)
def test_interval_holds_its_estimate_and_mirrors(problems: int, samples: int, seed: int, chance: float) -> None:
    correct = answers(np.random.default_rng(seed), np.full(problems, chance), samples)
    found, mirrored = accuracy_interval(correct), accuracy_interval(1 - correct)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-9)


def test_partial_credit_is_taken_as_it_is() -> None:
    rng = np.random.default_rng(1)
    found = accuracy_interval(rng.random((30, 4)))
    assert 0.3 < found.low < found.value < found.high < 0.7


@pytest.mark.parametrize("shape", SHAPES)
def test_populations_of_the_simulation_have_the_accuracy_they_claim(shape: str) -> None:
    rng = np.random.default_rng(2)
    for accuracy in (0.05, 0.5, 0.9):
        assert difficulties(shape, accuracy, 40_000, rng).mean() == pytest.approx(accuracy, abs=0.01)
    assert shift_for(0.5) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("samples", "accuracy"), [(1, 0.1), (32, 0.08), (32, 0.5)])
def test_coverage_with_thirty_problems(samples: int, accuracy: float) -> None:
    rng, covered, trials = np.random.default_rng(3), 0, 400
    for _ in range(trials):
        truth = rng.uniform(accuracy / 2, accuracy * 1.5)
        found = accuracy_interval(answers(rng, difficulties("beta_1", truth, 30, rng), samples))
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / trials <= 0.985  # three standard errors around 95%


def test_difference_is_paired_and_turns_its_sign() -> None:
    rng = np.random.default_rng(4)
    chances = rng.beta(0.3, 0.5, 200)
    a, b = answers(rng, chances, 8), answers(rng, np.clip(chances + 0.05, 0, 1), 8)
    found, turned = difference_interval(a, b), difference_interval(b, a)
    assert found.value == pytest.approx(-turned.value)
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low))
    unpaired = accuracy_interval(a).high - accuracy_interval(a).low
    assert found.high - found.low < unpaired


@pytest.mark.parametrize("samples", [1, 8])
def test_a_policy_does_not_differ_from_itself_but_certainty_is_not_claimed(samples: int) -> None:
    correct = answers(np.random.default_rng(5), np.full(30, 0.3), samples)
    found = difference_interval(correct, correct)
    assert found.low < 0 == found.value < found.high


@pytest.mark.parametrize("samples", [1, 4, 32])
@pytest.mark.parametrize("turned", [0.03, 0.05, 0.1])
def test_problems_that_turn_from_never_to_always_are_covered(samples: int, turned: float) -> None:
    """What training changes most often. Student's interval of the differences covers 59% to 90% here."""
    rng, covered, trials = np.random.default_rng(7), 0, 400
    for _ in range(trials):
        solved = rng.random(30) < 0.4
        gained = rng.random(30) < turned
        before = np.repeat((solved & ~gained).astype(np.float64)[:, None], samples, axis=1)
        after = np.repeat((solved | gained).astype(np.float64)[:, None], samples, axis=1)
        found = difference_interval(before, after)
        covered += found.low <= turned <= found.high
    assert covered / trials >= 0.92  # 93% and more, less two standard errors


def test_a_level_close_to_one_gives_a_wider_interval() -> None:
    rng = np.random.default_rng(8)
    a, b = answers(rng, np.full(30, 0.3), 4), answers(rng, np.full(30, 0.4), 4)
    widths = [
        found.high - found.low for found in (difference_interval(a, b, level) for level in (0.95, 0.999, 0.99999))
    ]
    assert widths[0] < widths[1] < widths[2] <= 2


def test_all_right_against_all_wrong() -> None:
    found = difference_interval(np.zeros((30, 1)), np.ones((30, 1)))
    assert found.value == found.high == 1
    assert 0.7 < found.low < 1


def test_mean_of_one_problem_has_no_interval() -> None:
    found = mean_interval(np.array([3.0]))
    assert found.low == -np.inf
    assert found.high == np.inf
