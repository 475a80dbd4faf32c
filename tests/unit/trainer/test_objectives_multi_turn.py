"""Responses with environment tokens: sums run over the policy's tokens, V is taken at the first of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from assets.studies.tabular import Tree, state_values, tabular_scores, trajectories
from pipeline.config.training import OBJECTIVE_NEEDS, ObjectiveName, TrainingConfig
from pipeline.scoring.batch import Trajectory, lay_out
from trainer.objectives import get

OPTIONS = TrainingConfig(beta=0.5)
TREE = Tree(actions=3, horizon=4, stop=False)
MASK = np.array([False, True, False, True])
REF, TABLE = TREE.random_table(1), TREE.random_table(2)


def environment(a: int) -> int:
    return (a + 1) % 3


RESPONSES = [(2, a, environment(a), b) for a in range(3) for b in range(3)]
"""The environment opens with 2, and answers a policy token a with a + 1."""


def rewards(response: tuple[int, ...]) -> float:
    return float(response[1] == 1) + 0.5 * float(response[3] == 0)


def dialogues() -> list[Trajectory]:
    rows = trajectories(TREE, RESPONSES, rewards, REF, TREE.random_table(3), beta=0.5)
    return [replace(t, response_mask=MASK) for t in rows]


@pytest.mark.parametrize("objective", ["tbrm", "brm", "sql_single", "sql_multi", "sac_single", "sac_multi"])
def test_loss_vanishes_at_the_optimum_over_the_policys_own_turns(objective: ObjectiveName) -> None:
    """Soft backup of the two policy turns by hand; what the table says at the environment's turns is noise."""
    star = TREE.random_table(9)
    place = TREE.prefixes.index
    ref = REF.log_softmax(1)
    for a in range(3):
        second = place((2, a, environment(a)))
        star[second] = ref[second] + torch.tensor([rewards((2, a, environment(a), b)) for b in range(3)]) / 0.5
    for a in range(3):
        star[place((2,)), a] = ref[place((2,)), a] + star[place((2, a, environment(a)))].logsumexp(0)
    batch = lay_out(dialogues())
    scores = tabular_scores(TREE, star, batch)
    scores = replace(scores, critic_value=scores.value, target_value=scores.value)
    assert get(objective).loss(scores, batch, OPTIONS)[0].item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("objective", sorted(OBJECTIVE_NEEDS))
def test_environment_tokens_are_never_trained(objective: ObjectiveName) -> None:
    batch = lay_out(dialogues(), pairs=[(0, 4)])
    table = TABLE.clone().requires_grad_()
    scores = tabular_scores(TREE, table, batch)
    old = scores.logprob.detach() - 0.1
    scores = replace(scores, critic_value=scores.value, target_value=scores.value, old_logprob=old)
    slope = torch.autograd.grad(get(objective).loss(scores, batch, OPTIONS)[0], table)[0]
    moved = {TREE.prefixes[i] for i in slope.abs().sum(1).nonzero().flatten().tolist()}
    own = {(2,), *((2, a, environment(a)) for a in range(3))}
    assert moved <= own
    assert (2,) in moved


def test_rewards_on_environment_tokens_belong_to_the_token_before() -> None:
    row = replace(dialogues()[0], token_rewards=np.array([9.0, 1.0, 2.0, 4.0]))
    assert lay_out([row]).token_reward.tolist() == [3.0, 4.0]


def test_token_rewards_take_the_place_of_the_outcome_in_brm() -> None:
    rows = [replace(t, token_rewards=np.array([0.0, t.reward, 0.0, 0.0])) for t in dialogues()]
    batch = lay_out(rows)
    scores = tabular_scores(TREE, TABLE, batch)
    assert scores.value is not None
    residual = 0.0
    for t, q, v in zip(rows, (scores.logprob + scores.value).view(-1, 2), scores.value.view(-1, 2), strict=True):
        ref = t.ref_logprobs[MASK]
        residual += float((q[0] - v[1] - t.reward / 0.5 - ref[0]) ** 2 + (q[1] - ref[1]) ** 2)
    assert get("brm").loss(scores, batch, OPTIONS)[0].item() == pytest.approx(residual)


def test_a_single_turn_is_the_mask_of_all_true() -> None:
    (row,) = trajectories(TREE, RESPONSES[:1], rewards, REF)
    batch = lay_out([row])
    assert batch.lengths == (4,)
    assert torch.equal(state_values(TREE, TABLE[:, 0], batch), TABLE[TREE.rows(RESPONSES[0]), 0])
