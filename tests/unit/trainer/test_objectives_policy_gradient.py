"""GRPO and PPO against a plain computation, token by token, from their definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from assets.studies.tabular import Response, Tree, state_values, tabular_scores, trajectories
from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import GroupStats, lay_out
from trainer.objectives import get
from trainer.objectives.policy_gradient import gae, group_advantages

TREE = Tree(actions=4, horizon=4)
REF, BEHAVIOUR, TABLE = (0.7 * TREE.random_table(seed) for seed in (1, 2, 3))
VALUES = TREE.random_table(4)[:, 0]


def reward(response: Response) -> float:
    return float(sum(response) % 2)


ROWS = trajectories(TREE, TREE.sample(BEHAVIOUR, 12, 5), reward, REF, BEHAVIOUR, prompts=3)
BATCH = lay_out(ROWS)
RESPONSES = [tuple(t.response_ids.tolist()) for t in ROWS]


def clipped(log_ratio: float, advantage: float, clip: float) -> float:
    ratio = math.exp(log_ratio)
    return min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)


def test_grpo() -> None:
    options, expected = (
        TrainingConfig(objective="grpo", kl_coefficient=0.3, old_logprobs="behaviour", dual_clip=None),
        0.0,
    )
    for t, response in zip(ROWS, RESPONSES, strict=True):
        peers = np.array([o.reward for o in ROWS if o.prompt_id == t.prompt_id])
        advantage = (t.reward - peers.mean()) / (peers.std(ddof=1) + 1e-6)
        now, old, ref = (TREE.logprobs(p, response).tolist() for p in (TABLE, BEHAVIOUR, REF))
        terms = [
            clipped(n - o, advantage, 0.2) - 0.3 * (math.exp(r - n) - (r - n) - 1)
            for n, o, r in zip(now, old, ref, strict=True)
        ]
        expected -= sum(terms) / len(terms)
    loss, metrics = get("grpo").loss(tabular_scores(TREE, TABLE, BATCH), BATCH, options)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert 0 < metrics["clipped"].mean() < 1


def test_grpo_gradient_stops_where_clipped() -> None:
    scores = replace(tabular_scores(TREE, TABLE, BATCH), logprob=BATCH.behavior_logprobs + 1.0)
    logprob = scores.logprob.clone().requires_grad_()
    options = TrainingConfig(objective="grpo", kl_coefficient=0.0, old_logprobs="behaviour", dual_clip=None)
    loss, _ = get("grpo").loss(replace(scores, logprob=logprob), BATCH, options)
    slope = torch.autograd.grad(loss, logprob)[0]
    up = group_advantages(BATCH)[BATCH.seq] > 0
    assert (slope[up] == 0).all()
    assert (slope[~up] != 0).all()


def test_a_group_rewarded_alike_teaches_grpo_nothing() -> None:
    same = [replace(t, reward=1.0, group=GroupStats(1.0, 0.0, 4, 1.0)) for t in ROWS[:4]]
    assert (group_advantages(lay_out(same)) == 0).all()


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_gae_is_the_discounted_sum_of_temporal_differences(lam: float) -> None:
    values, rewards = state_values(TREE, VALUES, BATCH), torch.rand(len(BATCH.seq), dtype=torch.float64)
    result = gae(rewards, values, BATCH, lam, discount=0.9)
    start = 0
    for length in BATCH.lengths:
        v, r = [*values[start : start + length].tolist(), 0.0], rewards[start : start + length].tolist()
        delta = [r[h] + 0.9 * v[h + 1] - v[h] for h in range(length)]
        expected = [sum((0.9 * lam) ** (k - h) * delta[k] for k in range(h, length)) for h in range(length)]
        assert result[start : start + length].tolist() == pytest.approx(expected)
        start += length


def test_ppo_loss_and_both_gradients() -> None:
    options = TrainingConfig(
        objective="ppo",
        gae_lambda=0.8,
        kl_coefficient=0.2,
        entropy_coefficient=0.05,
        clip_ratio=0.3,
        old_logprobs="behaviour",
        dual_clip=None,
    )
    values = state_values(TREE, VALUES, BATCH).requires_grad_()
    scores = replace(tabular_scores(TREE, TABLE, BATCH), critic_value=values)
    loss, _ = get("ppo").loss(scores, BATCH, options)
    expected, slopes, start = 0.0, [], 0
    for t, response in zip(ROWS, RESPONSES, strict=True):
        now, old, ref = (TREE.logprobs(p, response).tolist() for p in (TABLE, BEHAVIOUR, REF))
        v, size = [*values[start : start + len(response)].tolist(), 0.0], len(response)
        rewards = [t.reward * (h == size - 1) - 0.2 * (old[h] - ref[h]) for h in range(size)]
        advantage = 0.0
        for h in reversed(range(size)):
            advantage = rewards[h] + v[h + 1] - v[h] + 0.8 * advantage
            p = TABLE[TREE.rows(response)[h]].softmax(0)
            entropy = -(p * p.log()).sum().item()
            # The return is V + A, so the value error V - G is -A.
            expected += 0.5 * advantage**2 - clipped(now[h] - old[h], advantage, 0.3) - 0.05 * entropy
            slopes.append((start + h, -advantage))
        start += size
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    got = torch.autograd.grad(loss, values)[0]
    assert got.tolist() == pytest.approx([slope for _, slope in sorted(slopes)])


def test_a_recomputed_policy_at_the_samplers_log_probs_is_the_sampler() -> None:
    """Where engine and trainer agree, both ways to take the old log-probs give one loss."""
    values = state_values(TREE, VALUES, BATCH)
    for objective in ("grpo", "ppo"):
        scores = replace(tabular_scores(TREE, TABLE, BATCH), critic_value=values, old_logprob=BATCH.behavior_logprobs)
        losses = [
            get(objective).loss(scores, BATCH, TrainingConfig(objective=objective, old_logprobs=way))[0].item()
            for way in ("recomputed", "behaviour")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_the_dual_clip_bounds_a_bad_token_that_became_likely() -> None:
    """Without it, one token of a response worse than its peers, e^6 times as likely as it was, would rule the loss."""
    logprob = (BATCH.behavior_logprobs + 6.0).requires_grad_()
    scores = replace(tabular_scores(TREE, TABLE, BATCH), logprob=logprob, old_logprob=BATCH.behavior_logprobs)
    down = group_advantages(BATCH)[BATCH.seq] < 0
    assert down.any()
    for dual_clip, stopped in ((3.0, True), (None, False), (500.0, False)):
        options = TrainingConfig(objective="grpo", kl_coefficient=0.0, dual_clip=dual_clip)
        slope = torch.autograd.grad(get("grpo").loss(scores, BATCH, options)[0], logprob)[0]
        assert bool((slope[down] == 0).all()) is stopped


def test_a_response_far_from_the_reference_has_a_finite_loss() -> None:
    """k3 of a token that the reference finds e^800 times likelier is no infinity, and does not move the policy."""
    logprob = (BATCH.ref_logprobs.double() - 800).requires_grad_()
    scores = replace(tabular_scores(TREE, TABLE, BATCH), logprob=logprob, old_logprob=logprob.detach())
    loss, _ = get("grpo").loss(scores, BATCH, TrainingConfig(objective="grpo", kl_coefficient=0.5, importance_cap=None))
    flat, _ = get("grpo").loss(scores, BATCH, TrainingConfig(objective="grpo", kl_coefficient=0.0, importance_cap=None))
    assert (loss - flat).item() == pytest.approx(0.5 * 10 * len(ROWS))
    assert torch.isfinite(torch.autograd.grad(loss, logprob)[0]).all()
