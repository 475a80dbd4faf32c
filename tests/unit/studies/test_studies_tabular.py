"""The tabular machinery of the exact studies, against brute force."""

from dataclasses import replace

import pytest
import torch

from assets.studies.digits import digits_so_far
from assets.studies.identities import largest_errors
from assets.studies.iteration import Method, best_curve, choices, descend
from assets.studies.tabular import (
    Tree,
    cells,
    random_layered,
    scores_at,
    state_values,
    tabular_scores,
    trajectories,
    weighted,
)
from assets.studies.theory import BETA, behaviour, fit_sample, problem
from pipeline.config.training import ObjectiveName, TrainingConfig
from pipeline.scoring.batch import lay_out
from trainer.objectives import get


@pytest.mark.parametrize("objective", ["tbrm", "brm", "tbrm_iterative", "sql_single", "sql_multi"])
def test_a_weight_counts_a_trajectory_as_often(objective: ObjectiveName) -> None:
    tree, options = Tree(actions=2, horizon=3), TrainingConfig(beta=0.5)
    ref, table, values = tree.random_table(1), tree.random_table(2), tree.random_table(3).logsumexp(1)
    counts = [3, 0, 1, 2, 5][: len(tree.responses)]

    def loss(responses: list[tuple[int, ...]], weights: list[int]) -> float:
        batch = lay_out(trajectories(tree, responses, lambda r: 0.3 * sum(r), ref))
        scores = replace(tabular_scores(tree, table, batch), target_value=state_values(tree, values, batch))
        return float(get(objective).loss(*weighted(scores, batch, torch.tensor(weights)), options)[0])

    distinct = tree.responses[: len(counts)]
    repeated = [r for r, count in zip(distinct, counts, strict=True) for _ in range(count)]
    assert loss(distinct, counts) == pytest.approx(loss(repeated, [1] * len(repeated)), rel=1e-12)


def test_the_layered_optimum_is_the_normalized_exponential_of_the_rewards() -> None:
    mdp = random_layered(3)
    log_weights = mdp.all_logprobs(mdp.ref) + mdp.outcome / BETA
    star = mdp.optimal(BETA)
    assert torch.allclose(mdp.all_logprobs(star), log_weights.log_softmax(0), atol=1e-12)
    assert float(star[0].logsumexp(0)) == pytest.approx(float(log_weights.logsumexp(0)))
    assert mdp.objective(star, BETA) == pytest.approx(BETA * float(log_weights.logsumexp(0)))


def test_rows_follow_the_transitions_and_occupancies_sum_to_one() -> None:
    mdp = random_layered(4)
    assert [mdp.rows(r) for r in mdp.responses] == mdp.index.tolist()
    occupied = mdp.occupancy(mdp.all_logprobs(mdp.ref).exp())
    assert torch.allclose(occupied.sum((1, 2)), torch.ones(mdp.horizon, dtype=torch.float64))
    first = mdp.ref.log_softmax(1).exp()[0]
    assert torch.allclose(occupied[0, 0], first)
    batch = mdp.batch()
    by_response = scores_at(cells(mdp, batch), mdp.ref, batch).logprob.reshape(-1, mdp.horizon).sum(1)
    assert torch.allclose(by_response, mdp.all_logprobs(mdp.ref), atol=1e-14)


def test_identities_hold_to_rounding() -> None:
    assert max(largest_errors(range(3), (0.002, 0.2, 2.0)).values()) < 1e-12


def test_more_data_and_better_coverage_come_closer_within_the_bound() -> None:
    mdp, star = problem(seed=1)
    close, far = behaviour(mdp, star, 1.0), behaviour(mdp, star, 0.03)
    assert close.chi2_state_action == pytest.approx(1)
    assert 5 < far.chi2_state_action <= far.chi2_trajectory
    few, many = (fit_sample(mdp, star, close, n, seed=0) for n in (100, 100_000))
    uncovered = fit_sample(mdp, star, far, 100_000, seed=0)
    assert 0 < many.gap < few.gap / 100
    assert many.gap < uncovered.gap / 3
    for fit in (few, many, uncovered):
        assert fit.gap == pytest.approx(fit.kl_gap, abs=1e-13)
        assert fit.gap <= fit.bound
        assert fit.gradient < 1e-6


def test_iteration_stays_where_direct_optimization_leaves() -> None:
    for objective in ("tbrm_iterative", "sql_single", "sql_multi"):
        assert set(choices(objective)) == {"worse"}
    assert set(choices("tbrm")) == {"better"}
    direct = descend("tbrm", "table", steps=300, refresh=1, rate=0.01)
    iterated = descend("tbrm_iterative", "table", steps=300, refresh=10, rate=0.01)
    assert direct[0] == iterated[0]
    assert direct[-1] < 1e-5
    assert iterated[-1] > 0.07


def test_descent_by_drawn_trajectories_follows_the_exact_one() -> None:
    exact, drawn = (best_curve(Method("tbrm", sampled=s), seed=0, at_steps=(0, 300)) for s in (False, True))
    assert exact.gaps[0] == drawn.gaps[0] == pytest.approx(1)
    assert max(exact.gaps[-1], drawn.gaps[-1]) < 1e-3


@pytest.mark.parametrize(("response", "outcome"), [("123", 1.0), ("124", 0.0), ("12", 0.0), ("1234", 0.0), ("", 0.0)])
def test_dense_rewards_sum_to_the_outcome(response: str, outcome: float) -> None:
    label = digits_so_far(response, "123", {"response_token_ids": [*range(len(response)), 2]})
    assert label["reward"] == outcome
    assert len(label["token_rewards"]) == len(response) + 1
    assert sum(label["token_rewards"]) == pytest.approx(outcome)
    assert all(step > 0 for step, a, b in zip(label["token_rewards"], response, "123", strict=False) if a == b)
