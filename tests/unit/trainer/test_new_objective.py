"""A new objective is one function and one row, as CONTRIBUTING says: it is known, it gets what it needs, it trains."""

import math
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError
from torch import Tensor

from pipeline.config.training import OBJECTIVE_NEEDS, ObjectiveNeeds, TrainingConfig
from pipeline.scoring.batch import PackedBatch, Scores
from tests.unit.trainer.jobs import job_of, mix, policy_folder
from trainer.job import TrainJob
from trainer.loop.worker import train_policy
from trainer.objectives import base, get, objective


@pytest.fixture(autouse=True)
def forgotten_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LOSSES", dict(base.LOSSES))


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_folder(tmp_path_factory.mktemp("policies") / "zero")


@pytest.fixture(scope="module")
def table(policy: Path) -> pa.Table:
    return mix(policy, reference=policy)


def test_every_row_has_its_loss() -> None:
    assert set(base.LOSSES) == set(OBJECTIVE_NEEDS)


def test_a_loss_without_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="huber has no row in OBJECTIVE_NEEDS"):
        objective("huber")(get("tbrm").loss)
    with pytest.raises(ValidationError, match=r"Input should be 'tbrm', 'brm', .* or 'filtered_imitation'"):
        TrainingConfig(objective="huber")


def test_a_function_and_a_row_train(
    policy: Path, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVE_NEEDS, "absolute", ObjectiveNeeds(value="first", value_offset=True))

    @objective("absolute")
    def absolute(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Σ_i |δ_i|, δ_i the residual of TBRM."""
        residual = get("tbrm").loss(scores, batch, options)[1]["residual"]
        value = base.given(scores.value_first, "V at the first response token")
        ratio = batch.per_trajectory(base.log_ratio(scores, batch))
        return (value + ratio - batch.reward / options.beta).abs().sum(), {"residual": residual}

    job = job_of(table, policy, tmp_path / "job", updates=4, objective="absolute", prompt_batch=6)
    rows = train_policy(TrainJob.load(job.save())).metrics
    assert [row["loss"] for row in rows] == pytest.approx([row["residual_abs"] for row in rows])
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert "control_cosine" in rows[0]
    assert (job.state / "diagnostics.json").exists()


def test_an_objective_gets_what_its_row_asks_for(
    policy: Path, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = ObjectiveNeeds("all", True, True, True, "soft_values", True, True, mean_over="tokens")
    monkeypatch.setitem(OBJECTIVE_NEEDS, "greedy", needs)
    seen: list[tuple[Scores, PackedBatch, float]] = []

    @objective("greedy")
    def greedy(scores: Scores, batch: PackedBatch, options: TrainingConfig) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Fits the critic, and imitates."""
        error = base.given(scores.critic_value, "a critic") - base.given(scores.target_value, "V of the start")
        loss = error.square().sum() - scores.logprob.double().sum()
        seen.append((scores, batch, float(loss.detach())))
        return loss, {}

    job = job_of(table, policy, tmp_path / "job", updates=1, objective="greedy", control_every=0)
    (row,) = train_policy(job).metrics
    for scores, batch, _ in seen:
        for found in (scores.value, scores.entropy, scores.critic_value, scores.target_value, scores.old_logprob):
            assert found is not None
            assert found.shape == scores.logprob.shape
        assert batch.behavior_logprobs is not None
        assert len(batch.pairs) > 0
        assert all(trajectory.group is not None for trajectory in batch.trajectories)
    tokens = sum(sum(batch.lengths) for _, batch, _ in seen)
    assert row["loss"] == pytest.approx(sum(loss for _, _, loss in seen) / tokens)
    assert math.isfinite(row["grad_norm"])
