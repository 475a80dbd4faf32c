"""What is trained on, in which order, and which settings and data are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from trainer.data import TrajectoryTable, batch_rows, write_trajectories
from trainer.groups import Groups


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"beta": 0}, "greater than 0"),
        ({"beta": -1}, "greater than 0"),
        ({"objective": "reinforce"}, "'tbrm'"),
        ({"offload": "all"}, "zero_stage: 3"),
        ({"offload": "optimizer", "zero_stage": 0}, "zero_stage 1, 2 or 3"),
        ({"objective": "grpo", "residual_clip": 1.0}, "one residual per trajectory"),
        ({"objective": "brm", "value_offset": "reference"}, "trains no such value"),
        ({"objective": "grpo", "temperature": 0.7}, "stored at temperature 1"),
        ({"adam_betas": [0.9, 1.0]}, "adam_betas"),
        ({"learning_rates": 1e-3}, "Extra inputs"),
    ],
)
def test_impossible_settings_are_refused_with_the_reason(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TrainingConfig.model_validate(settings)


def test_rows_read_back_as_they_were_written(trajectories: pa.Table, tmp_path: Path) -> None:
    parts = [trajectories.slice(0, 40), trajectories.slice(40)]
    assert write_trajectories(parts, TrainingConfig(), tmp_path) == trajectories.num_rows
    table = TrajectoryTable(tmp_path, beta=0.5)
    for row, read in zip((95, 3, 40), table.read([95, 3, 40]), strict=True):
        stored = trajectories.slice(row, 1).to_pylist()[0]
        assert read.trajectory_id == stored["trajectory_id"]
        assert read.response_ids.tolist() == stored["response_token_ids"]
        assert read.ref_logprobs.tolist() == stored["ref_token_logprobs"]
        assert read.response_mask.all()
        assert read.group is not None
        assert read.group.size == 4


def test_group_statistics() -> None:
    rewards = np.array([0.0, 1.0, 0.5, 1.0, 0.0])
    groups = Groups(np.array([7, 7, 3, 7, 7], dtype=np.uint64), rewards, beta=0.002)
    assert [rows.tolist() for rows in groups] == [[0, 1, 3, 4], [2]]
    assert groups.of_row.tolist() == [0, 0, 1, 0, 0]
    stats = groups.stats(0)
    assert (stats.mean, stats.size) == (0.5, 4)
    assert stats.std == pytest.approx(np.std([0, 1, 1, 0], ddof=1))
    assert stats.soft_value == pytest.approx(500 + np.log(0.5))
    assert (groups.stats(1).std, groups.stats(1).soft_value) == (0.0, 250.0)


def test_every_prompt_is_seen_once_an_epoch_whatever_the_batch_size() -> None:
    groups = [np.array([2 * i, 2 * i + 1]) for i in range(10)]
    rows = [row for update in range(5) for row in batch_rows(groups, seed=1, update=update, prompts=4)]
    assert sorted(rows) == sorted([*range(20), *range(20)])
    assert batch_rows(groups, 1, 3, 4) == batch_rows(groups, 1, 3, 4)
    assert batch_rows(groups, 1, 0, 4) != batch_rows(groups, 2, 0, 4)
    assert sorted(batch_rows(groups, 1, 7, 64)) == list(range(20))


@pytest.mark.parametrize(
    ("objective", "column"),
    [("tbrm", "ref_token_logprobs"), ("grpo", "behavior_logprobs"), ("ppo", "behavior_logprobs")],
)
def test_a_trajectory_without_what_the_objective_needs_is_named(
    trajectories: pa.Table, tmp_path: Path, objective: str, column: str
) -> None:
    values = trajectories.column(column).to_pylist()
    values[17] = None
    damaged = trajectories.set_column(
        trajectories.schema.get_field_index(column), column, pa.array(values, pa.list_(pa.float32()))
    )
    with pytest.raises(TbrmError, match=f"t017 .*{column}"):
        write_trajectories([damaged], TrainingConfig.model_validate({"objective": objective}), tmp_path)
    write_trajectories([damaged], TrainingConfig(objective="imitation"), tmp_path)


def test_truncated_responses_are_dropped_when_asked(trajectories: pa.Table, tmp_path: Path) -> None:
    reasons = pa.array(["length"] * 6 + ["stop"] * (trajectories.num_rows - 6))
    cut = trajectories.set_column(trajectories.schema.get_field_index("finish_reason"), "finish_reason", reasons)
    assert write_trajectories([cut], TrainingConfig(drop_truncated=True), tmp_path) == trajectories.num_rows - 6
    with pytest.raises(TbrmError, match="no trajectory to train on"):
        write_trajectories([cut.slice(0, 6)], TrainingConfig(drop_truncated=True), tmp_path)
