"""Diagnostics of a real job, against the same figures computed from separately scored trajectories."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.policies.load_save import load_model
from pipeline.policies.tiny import save_tiny_arith
from pipeline.scoring.scoring import score_trajectories
from tests.process.trainer.conftest import MODEL
from trainer.data.trajectories import TrajectoryTable
from trainer.diagnostics.numbers import DIAGNOSTICS_FILE, SourceDiagnostics, parse_diagnostics
from trainer.job import TrainJob
from trainer.loop.worker import train_policy

MakeJob = Callable[..., TrainJob]


def diagnostics_of(job: TrainJob) -> dict[str, SourceDiagnostics]:
    result = train_policy(job)
    assert result.seconds["diagnostics"] > 0
    tree = json.loads((job.state / DIAGNOSTICS_FILE).read_text())
    return {source.source: source for source in parse_diagnostics(tree)}


def test_at_the_behaviour_policy_every_trajectory_counts(make_job: MakeJob) -> None:
    found = diagnostics_of(make_job(updates=1))
    assert {name: (s.lag, s.rows, s.sampled) for name, s in found.items()} == {
        "generation": (0, 48, 48),
        "elsewhere": (3, 48, 48),
    }
    for source in found.values():
        assert source.coverage is not None
        assert source.coverage.effective == pytest.approx(48, abs=1e-3)
        assert source.coverage.chi2 == pytest.approx(0, abs=1e-4)
        assert source.log_ratio_reference.mean == pytest.approx(0, abs=1e-4)


def test_another_policy_is_measured_as_by_hand(make_job: MakeJob, trajectories: pa.Table, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_tiny_arith(other, seed=1)
    job = make_job(updates=1, beta=0.5, micro_batch_tokens=64)
    found = diagnostics_of(replace(job, start=other))
    prompts, responses = (trajectories[f"{part}_token_ids"].to_pylist() for part in ("prompt", "response"))
    scored = score_trajectories(load_model(str(other), MODEL), prompts, responses, 4_096)
    sums = np.array([logprobs.sum(dtype=np.float64) for logprobs, _ in scored])
    behaviour = np.array([np.sum(row, dtype=np.float64) for row in trajectories["behavior_logprobs"].to_pylist()])
    values = np.array([value for _, value in scored])
    rewards = trajectories["reward"].to_numpy()
    for name, rows in (("generation", slice(0, 48)), ("elsewhere", slice(48, 96))):
        weights = np.exp(sums[rows] - behaviour[rows])
        residual = values[rows] + sums[rows] - behaviour[rows] - rewards[rows] / 0.5  # the reference is μ here
        source = found[name]
        assert source.coverage is not None
        assert source.coverage.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-3)
        assert source.coverage.chi2 == pytest.approx((weights**2).mean() / weights.mean() ** 2 - 1, rel=1e-3)
        assert source.coverage.mean_weight == pytest.approx(weights.mean(), rel=1e-3)
        assert source.residual.mean == pytest.approx(residual.mean(), abs=1e-3)
        assert source.residual.std == pytest.approx(residual.std(), abs=1e-3)
        assert source.value_first == pytest.approx(values[rows].mean(), abs=1e-4)


def test_the_sample_is_a_setting_and_rows_keep_their_source(make_job: MakeJob) -> None:
    job = make_job(updates=1, diagnostics_sample=10)
    assert {name: (s.rows, s.sampled) for name, s in diagnostics_of(job).items()} == {
        "generation": (48, 10),
        "elsewhere": (48, 10),
    }
    rows = TrajectoryTable(job.state, 1.0).sources()
    assert {key: (int(r[0]), int(r[-1])) for key, r in rows.items()} == {
        ("generation", 0): (0, 47),
        ("elsewhere", 3): (48, 95),
    }


def test_it_can_be_switched_off(make_job: MakeJob) -> None:
    job = make_job(updates=1, diagnostics_sample=0)
    train_policy(job)
    assert not (job.state / DIAGNOSTICS_FILE).exists()
