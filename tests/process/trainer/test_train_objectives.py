"""Every objective trains the tiny policy through the same loop, and gives one loss however the batch is cut."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config.training import OBJECTIVE_NEEDS
from trainer.job import TrainJob
from trainer.loop.worker import train_policy

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
