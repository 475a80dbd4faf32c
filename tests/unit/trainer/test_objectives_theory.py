"""What the paper proves about TBRM and its relatives, exactly, on tabular policies in float64."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from assets.studies.identities import random_ratios
from assets.studies.tabular import Response, Tree, optimal_table, state_values, tabular_scores, trajectories
from pipeline.config.training import ObjectiveName, TrainingConfig
from pipeline.scoring.batch import lay_out
from trainer.objectives import get

BETA = 0.5
OPTIONS = TrainingConfig(beta=BETA)
TREE = Tree(actions=3, horizon=3)
REF = TREE.random_table(seed=1)


def reward(response: Response) -> float:
    return float(sum(response) % 3 == 1) + 0.1 * len(response)


def minimize(tree: Tree, responses: list[Response], ref: Tensor) -> Tensor:
    """The table that TBRM ends at on these responses, from zero logits."""
    table = torch.zeros_like(ref, requires_grad=True)
    batch = lay_out(trajectories(tree, responses, reward, ref))
    optimizer = torch.optim.LBFGS(
        [table], max_iter=2_000, tolerance_grad=1e-12, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = get("tbrm").loss(tabular_scores(tree, table, batch), batch, OPTIONS)
        loss = loss / len(responses)
        loss.backward()
        return loss

    optimizer.step(closure)
    return table.detach()


def test_tbrm_reaches_the_optimal_policy_from_two_behaviour_policies() -> None:
    star = optimal_table(TREE, REF, reward, BETA).log_softmax(1)
    for seed in (2, 3):
        behaviour = 2 * TREE.random_table(seed)
        data = TREE.responses + TREE.sample(behaviour, 300, seed)
        assert torch.allclose(minimize(TREE, data, REF).log_softmax(1), star, atol=1e-5)


def test_the_two_forms_of_equation_4_agree() -> None:
    table = TREE.random_table(4)
    for response in TREE.responses:
        batch = lay_out(trajectories(TREE, [response], reward, REF))
        loss, _ = get("tbrm").loss(tabular_scores(TREE, table, batch), batch, OPTIONS)
        ratios = TREE.logprobs(table, response) - TREE.logprobs(REF, response)
        first = table[0, response[0]] - TREE.logprobs(REF, response)[0]
        other = (first + ratios[1:].sum() - reward(response) / BETA) ** 2
        assert loss.item() == pytest.approx(other.item(), rel=1e-12)


@pytest.mark.parametrize(
    "objective", ["tbrm", "brm", "tbrm_iterative", "sql_single", "sql_multi", "sac_single", "sac_multi", "daa_pair"]
)
def test_loss_vanishes_at_the_optimum(objective: ObjectiveName) -> None:
    star = optimal_table(TREE, REF, reward, BETA)
    rows = trajectories(TREE, TREE.responses, reward, REF)
    pairs = list(itertools.pairwise(range(len(rows))))
    batch = lay_out(rows, pairs)
    values = state_values(TREE, star.logsumexp(1), batch)
    scores = replace(tabular_scores(TREE, star, batch), critic_value=values, target_value=values)
    loss, metrics = get(objective).loss(scores, batch, OPTIONS)
    assert loss.item() == pytest.approx(0, abs=1e-20)
    assert metrics["residual"].nan_to_num().abs().max() < 1e-10
    off = replace(scores, logprob=scores.logprob * 1.1)
    assert get(objective).loss(off, batch, OPTIONS)[0] > 1e-3


def test_pointwise_alignment_vanishes_at_the_optimum_when_the_group_is_the_reference() -> None:
    """With every response once and a uniform reference, V̂(x) is V*(s_1) exactly."""
    tree = Tree(actions=3, horizon=2, stop=False)
    ref = torch.zeros(len(tree.prefixes), 3, dtype=torch.float64)
    star = optimal_table(tree, ref, reward, BETA)
    batch = lay_out(trajectories(tree, tree.responses, reward, ref, beta=BETA))
    loss, metrics = get("daa_point").loss(tabular_scores(tree, star, batch), batch, OPTIONS)
    assert loss.item() == pytest.approx(0, abs=1e-20)
    assert metrics["value_first"][0].item() == pytest.approx(star[0].logsumexp(0).item())


def test_two_armed_bandit_separates_optimization_from_iteration() -> None:
    """Q in {(0, 0), (10, 0)}: from θ_t = (0, 0) the iterated regression stays there, TBRM moves to the optimum."""
    bandit, options = Tree(actions=2, horizon=1), TrainingConfig(beta=0.1)
    bad, star = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[10.0, 0.0]]).double()
    # π_ref is uniform; the rewards absorb it, so that r/β + log π_ref = (10, 0).
    ref = torch.zeros(1, 2, dtype=torch.float64)
    arms = [0.1 * (10 + np.log(2)), 0.1 * np.log(2)]
    batch = lay_out(trajectories(bandit, [(0,), (1,)], lambda r: arms[r[0]], ref))
    frozen = torch.full((2,), bad.logsumexp(1).item()).double()

    def loss(objective: ObjectiveName, table: Tensor) -> float:
        scores = replace(tabular_scores(bandit, table, batch), target_value=frozen)
        return get(objective).loss(scores, batch, options)[0].item()

    assert loss("tbrm_iterative", bad) < loss("tbrm_iterative", star)
    assert loss("tbrm", star) == pytest.approx(0, abs=1e-20)
    assert loss("tbrm", bad) == pytest.approx(100)


def test_an_outcome_reward_reaches_every_token_at_once_in_tbrm_and_only_the_last_in_brm() -> None:
    tree = Tree(actions=2, horizon=4, stop=False)
    ref = tree.random_table(5)
    response = (1, 0, 1, 1)

    def rows_moved_by_the_reward(objective: ObjectiveName) -> list[int]:
        slopes = []
        for outcome in (0.0, 1.0):
            table = tree.random_table(6).requires_grad_()
            batch = lay_out(trajectories(tree, [response], lambda _, r=outcome: r, ref))
            loss, _ = get(objective).loss(tabular_scores(tree, table, batch), batch, OPTIONS)
            slopes.append(torch.autograd.grad(loss, table)[0])
        return (slopes[1] - slopes[0]).abs().sum(1).nonzero().flatten().tolist()

    assert rows_moved_by_the_reward("tbrm") == tree.rows(response)
    assert rows_moved_by_the_reward("brm") == tree.rows(response)[-1:]


@pytest.mark.parametrize("seed", range(5))
def test_change_of_trajectory_measure(seed: int) -> None:
    """Lemma 1: sup over f of E_π[(Σ_h f)²] / E_μ[(Σ_h f)²] is bounded by horizon x the state-action density ratio.

    Exact on a random MDP, by enumerating trajectories: the supremum is a generalized eigenvalue. Over trajectories the
    density ratio itself is far larger, which is why a residual of whole trajectories is no handicap off-policy.
    """
    ratios = random_ratios(seed)
    assert ratios.share_of_bound <= 1
    assert ratios.supremum < ratios.trajectory
