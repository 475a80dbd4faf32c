"""Off-policy diagnostics against exact sums over all responses of a tabular policy."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assets.studies.tabular import Tree, tabular_scores, trajectories
from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import lay_out
from trainer.diagnostics.numbers import (
    COLUMNS,
    cells,
    choose_rows,
    coverage,
    diagnose,
    markdown,
    parse_diagnostics,
    to_json,
)
from trainer.objectives.residuals import tbrm

BETA = 0.5
TREE = Tree(actions=3, horizon=3, stop=False)
UNIFORM = torch.zeros_like(TREE.random_table(0))


def reward(response: tuple[int, ...]) -> float:
    return float(response[-1] == 1)


def log_probs(table: torch.Tensor) -> np.ndarray:
    """[responses] Σ_h log π(a_h|s_h)."""
    return np.array([float(TREE.logprobs(table, r).sum()) for r in TREE.responses])


def test_chi2_and_effective_samples_are_the_exact_ones() -> None:
    """Every response once is exactly a sample of the uniform μ, so that the estimates are the true values."""
    policy, behaviour = log_probs(TREE.random_table(1)), log_probs(UNIFORM)
    found = coverage(policy - behaviour)
    chi2 = float((np.exp(policy) ** 2 / np.exp(behaviour)).sum() - 1)  # Σ π²/μ - 1
    assert found.chi2 == pytest.approx(chi2, rel=1e-10)
    assert found.effective == pytest.approx(27 / (1 + chi2), rel=1e-10)
    assert found.effective_share == pytest.approx(1 / (1 + chi2), rel=1e-10)
    assert found.mean_weight == pytest.approx(1, rel=1e-10)
    assert found.log_ratio.mean == pytest.approx((policy - behaviour).mean())
    assert found.log_ratio.percentiles == pytest.approx(np.percentile(policy - behaviour, (5, 25, 50, 75, 95)))


def test_samples_of_another_policy_estimate_the_true_chi2() -> None:
    theta, mu = TREE.random_table(1) * 0.5, TREE.random_table(2) * 0.5
    chi2 = float((np.exp(2 * log_probs(theta) - log_probs(mu))).sum() - 1)
    drawn = [TREE.responses.index(r) for r in TREE.sample(mu, 20_000, seed=3)]
    found = coverage((log_probs(theta) - log_probs(mu))[drawn])
    assert found.chi2 == pytest.approx(chi2, rel=0.1)
    assert found.mean_weight == pytest.approx(1, rel=0.05)


def test_on_policy_every_sample_is_effective() -> None:
    found = coverage(np.zeros(40))
    assert (found.effective, found.effective_share, found.chi2, found.mean_weight) == (40, 1, 0, 1)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=60), st.floats(-3_000, 3_000))
def test_effective_samples_lie_between_one_and_all_and_ignore_a_common_factor(
    ratios: list[float], shift: float
) -> None:
    weights = np.exp(np.array(ratios))
    found, moved = coverage(np.array(ratios)), coverage(np.array(ratios) + shift)
    assert found.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-9)
    assert 1 - 1e-9 <= found.effective <= len(ratios) + 1e-9
    assert moved.effective == pytest.approx(found.effective, rel=1e-6)
    assert np.isfinite([moved.mean_weight, moved.chi2]).all()


def test_the_residual_is_that_of_eq_4() -> None:
    theta, reference, behaviour = (TREE.random_table(seed) for seed in (1, 2, 3))
    rows = trajectories(TREE, TREE.responses, reward, reference, behaviour, BETA)
    batch = lay_out(rows)
    scores = tabular_scores(TREE, theta, batch)
    residual = tbrm(scores, batch, TrainingConfig(beta=BETA))[1]["residual"].numpy()
    logprobs = batch.per_trajectory(scores.logprob).numpy()
    assert scores.value_first is not None
    found = diagnose(("log", 2), 81, rows, logprobs, scores.value_first.numpy(), BETA, offset=False)
    assert (found.source, found.lag, found.rows, found.sampled) == ("log", 2, 81, 27)
    assert found.residual.mean == pytest.approx(residual.mean(), abs=1e-6)
    assert found.residual.std == pytest.approx(residual.std(), abs=1e-6)
    assert found.log_ratio_reference.mean == pytest.approx((log_probs(theta) - log_probs(reference)).mean(), abs=1e-6)
    assert found.coverage is not None
    assert found.coverage.effective == pytest.approx(
        coverage(log_probs(theta) - log_probs(behaviour)).effective, rel=1e-5
    )
    again = parse_diagnostics(json.loads(to_json([found], "hash", 128)))
    assert again == [found]
    assert len(cells(found)) == len(COLUMNS)
    assert len(markdown([found]).splitlines()) == 3


def test_without_behaviour_log_probs_there_is_no_coverage() -> None:
    reference = TREE.random_table(2)
    rows = trajectories(TREE, TREE.responses, reward, reference)
    found = diagnose(("log", 0), 27, rows, log_probs(reference), np.ones(27), BETA, offset=False)
    assert found.coverage is None
    assert found.log_ratio_reference.mean == pytest.approx(0, abs=1e-6)
    assert cells(found)[-7:] == ["-"] * 7


def test_the_sample_is_bounded_and_drawn_by_the_seed() -> None:
    sources = {("generation", 0): np.arange(1_000), ("generation", 1): np.arange(1_000, 1_010)}
    first, again, other = (choose_rows(sources, 64, seed) for seed in (1, 1, 2))
    assert [len(rows) for rows in first.values()] == [64, 10]
    assert all((first[key] == again[key]).all() for key in sources)
    assert (first["generation", 0] != other["generation", 0]).any()
