"""Every objective trains the tiny policy through the same loop, and gives one loss however the batch is cut."""

import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config.training import OBJECTIVE_NEEDS
from trainer.job import TrainJob, train_policy

MakeJob = Callable[..., TrainJob]


@pytest.mark.parametrize("objective", sorted(OBJECTIVE_NEEDS))
def test_objective_runs_and_does_not_depend_on_the_packing(make_job: MakeJob, objective: str) -> None:
    small = train_policy(make_job("small", updates=2, objective=objective, micro_batch_tokens=64)).metrics
    large = train_policy(make_job("large", updates=2, objective=objective, micro_batch_tokens=4096)).metrics
    for name in ("loss", "grad_norm"):
        assert [r[name] for r in small] == pytest.approx([r[name] for r in large], rel=2e-5, abs=1e-8)
        assert np.isfinite([r[name] for r in small]).all()


@pytest.mark.parametrize("objective", ["ppo", "sac_multi"])
def test_critic_learns_and_survives_a_resume(make_job: MakeJob, objective: str) -> None:
    settings = {"objective": objective, "critic_learning_rate": 1e-3}
    whole = train_policy(make_job("whole", updates=4, **settings)).metrics
    parts = make_job("parts", updates=4, **settings)
    train_policy(replace(parts, updates=2))
    resumed = train_policy(parts)
    assert resumed.resumed_from == 2
    assert [r["loss"] for r in resumed.metrics] == [r["loss"] for r in whole]


@pytest.mark.parametrize("objective", ["tbrm_iterative", "sql_multi"])
def test_scores_of_the_start_belong_to_one_configuration(make_job: MakeJob, objective: str) -> None:
    """A job that was given up left its scores behind; one with another configuration makes its own."""
    given_up = make_job("job", objective=objective, temperature=0.5)
    train_policy(given_up)
    for path in given_up.state.glob("update-*"):
        shutil.rmtree(path)
    again = replace(make_job("job", objective=objective), config_hash="another")
    clean = make_job("clean", objective=objective)
    for name in ("value_first", "loss"):
        expected = [row[name] for row in train_policy(clean).metrics]
        assert [row[name] for row in train_policy(again).metrics] == expected


@pytest.mark.parametrize("objective", ["tbrm", "ppo"])
def test_measuring_the_control_leaves_the_training_as_it_is(make_job: MakeJob, objective: str) -> None:
    settings = {"objective": objective, "updates": 3, "micro_batch_tokens": 64}
    plain, measured = make_job("plain", control_every=0, **settings), make_job("measured", control_every=2, **settings)
    without, with_cosine = train_policy(plain).metrics, train_policy(measured).metrics
    assert ["control_cosine" in row for row in without] == [False] * 3
    assert ["control_cosine" in row for row in with_cosine] == [True, False, True]
    assert all(abs(row["control_cosine"]) <= 1 for row in with_cosine if "control_cosine" in row)
    assert (plain.out / "model.safetensors").read_bytes() == (measured.out / "model.safetensors").read_bytes()
