"""Gradients of every objective against finite differences, and the options of the residual objectives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from assets.studies.tabular import Response, Tree, state_values, tabular_scores, trajectories
from pipeline.config.training import OBJECTIVE_NEEDS, ObjectiveName, TrainingConfig
from pipeline.errors import TbrmError
from pipeline.scoring.batch import lay_out, pack
from trainer.objectives import get

TREE = Tree(actions=3, horizon=3)
REF, BEHAVIOUR, TABLE, OLD = (TREE.random_table(seed) for seed in (1, 2, 3, 5))
VALUES = TREE.random_table(4)[:, 0]


def reward(response: Response) -> float:
    return (sum(response) % 3) / 2


ROWS = trajectories(TREE, TREE.sample(BEHAVIOUR, 12, 5), reward, REF, BEHAVIOUR, beta=0.5, prompts=3)


def loss_of(objective: ObjectiveName, table: Tensor, values: Tensor, **options: object) -> Tensor:
    (batch,) = pack(ROWS, 10**6, pairs=True)
    scores = replace(
        tabular_scores(TREE, table, batch),
        critic_value=state_values(TREE, values, batch),
        target_value=state_values(TREE, VALUES, batch),
        old_logprob=tabular_scores(TREE, OLD, batch).logprob,
    )
    config = TrainingConfig.model_validate({"beta": 0.5, "objective": objective} | options)
    return get(objective).loss(scores, batch, config)[0]


@pytest.mark.parametrize("objective", sorted(OBJECTIVE_NEEDS))
def test_policy_gradient_against_finite_differences(objective: ObjectiveName) -> None:
    table = TABLE.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: loss_of(objective, t, VALUES), table)
    assert torch.autograd.grad(loss_of(objective, table, VALUES), table)[0].abs().max() > 1e-3


@pytest.mark.parametrize("objective", ["sac_single", "sac_multi"])
def test_critic_gradient_against_finite_differences(objective: ObjectiveName) -> None:
    values = VALUES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss_of(objective, TABLE, v), values)


@pytest.mark.parametrize(
    "options", [{"length_normalized": True}, {"residual_clip": 1.5}, {"value_offset": "reference"}]
)
def test_options_have_the_right_gradient_and_change_the_loss(options: dict[str, object]) -> None:
    table = TABLE.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: loss_of("tbrm", t, VALUES, **options), table)
    assert loss_of("tbrm", TABLE, VALUES, **options).item() != pytest.approx(loss_of("tbrm", TABLE, VALUES).item())


def residuals(**options: object) -> Tensor:
    batch = lay_out(ROWS)
    config = TrainingConfig.model_validate({"beta": 0.5} | options)
    return get("tbrm").loss(tabular_scores(TREE, TABLE, batch), batch, config)[1]["residual"]


def test_options_do_what_they_say() -> None:
    plain, lengths = residuals(), torch.tensor([len(t.response_ids) for t in ROWS])
    assert torch.allclose(residuals(length_normalized=True) * lengths, plain)
    assert torch.allclose(plain - residuals(value_offset="reference"), REF[0].logsumexp(0))
    huber = torch.where(plain.abs() <= 1.5, plain**2, 3 * plain.abs() - 1.5**2).sum()
    assert (plain.abs() > 1.5).any()
    assert (plain.abs() < 1.5).any()
    assert loss_of("tbrm", TABLE, VALUES, residual_clip=1.5).item() == pytest.approx(huber.item())


def test_value_offset_without_the_reference_value_names_the_trajectory() -> None:
    batch = lay_out([replace(ROWS[0], ref_value_first=None)])
    config = TrainingConfig(value_offset="reference")
    with pytest.raises(TbrmError, match=r"t0 of generation has no ref_value_first.*tbrm ref-logprobs"):
        get("tbrm").loss(tabular_scores(TREE, TABLE, batch), batch, config)


def test_an_objective_without_what_it_needs_says_so() -> None:
    batch = lay_out([replace(ROWS[0], behavior_logprobs=None)])
    with pytest.raises(TbrmError, match="behavior_logprobs"):
        get("grpo").loss(tabular_scores(TREE, TABLE, batch), batch, TrainingConfig())


@pytest.mark.parametrize("objective", sorted(OBJECTIVE_NEEDS))
def test_mean_loss_does_not_depend_on_how_the_batch_is_cut(objective: ObjectiveName) -> None:
    """In exact arithmetic: the same sum over packs of any size, and the same gradient."""
    config, results = TrainingConfig(beta=0.5, objective=objective), []
    for budget in (1, 15, 10**6):
        table = TABLE.clone().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for batch in pack(ROWS, budget, pairs=get(objective).needs.pairs):
            values = state_values(TREE, VALUES, batch)
            old = tabular_scores(TREE, OLD, batch).logprob
            scores = replace(
                tabular_scores(TREE, table, batch), critic_value=values, target_value=values, old_logprob=old
            )
            total = total + get(objective).loss(scores, batch, config)[0]
        mean = total / get(objective).terms(ROWS)
        results.append((mean.item(), torch.autograd.grad(mean, table)[0]))
    for loss, slope in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-12)
        assert torch.allclose(slope, results[0][1], rtol=1e-10, atol=1e-12)


def test_terms_that_a_mean_is_taken_over() -> None:
    assert get("tbrm").terms(ROWS) == 12
    assert get("daa_pair").terms(ROWS) == 6
    assert get("daa_pair").terms(ROWS[:1]) == 1
    assert get("ppo").terms(ROWS) == sum(len(t.response_ids) for t in ROWS)


def test_metrics_are_per_trajectory_and_detached() -> None:
    (batch,) = pack(ROWS, 10**6, pairs=True)
    values = state_values(TREE, VALUES, batch)
    table = TABLE.clone().requires_grad_()
    old = tabular_scores(TREE, OLD, batch).logprob
    scores = replace(tabular_scores(TREE, table, batch), critic_value=values, target_value=values, old_logprob=old)
    for name in OBJECTIVE_NEEDS:
        for metric in get(name).loss(scores, batch, TrainingConfig(objective=name))[1].values():
            assert metric.shape == (12,)
            assert not metric.requires_grad


def test_imitation_is_the_negative_log_likelihood() -> None:
    expected = -sum(TREE.logprobs(TABLE, tuple(t.response_ids.tolist())).sum().item() for t in ROWS)
    assert loss_of("imitation", TABLE, VALUES).item() == pytest.approx(expected)
    assert np.isfinite(expected)
