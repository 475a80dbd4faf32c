"""What is trained on, in which order, and which settings and data are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from trainer.data.trajectories import Groups, TrajectoryTable, batch_rows, write_trajectories


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


@pytest.mark.parametrize(("size", "count"), [(10, 4), (7, 5), (5, 4), (12, 12), (3, 64), (9, 6)])
def test_batches_of_pairs_hold_no_prompt_twice(size: int, count: int) -> None:
    groups = [np.array([2 * i, 2 * i + 1]) for i in range(size)]
    batches = [batch_rows(groups, seed=1, update=update, prompts=count, apart=True) for update in range(3 * size)]
    assert all(len(set(rows)) == len(rows) == 2 * min(count, size) for rows in batches)
    order = [row for rows in batches for row in rows]
    for epoch in range(3):  # and still every prompt comes once an epoch, in an order of its own
        assert sorted(order[2 * size * epoch : 2 * size * (epoch + 1)]) == list(range(2 * size))
    assert batch_rows(groups, 1, 2 * size, count, apart=True) == batches[2 * size]
    plain = [row for update in range(3 * size) for row in batch_rows(groups, 1, update, count)]
    if size % count == 0 or count >= size:
        assert order == plain


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
    table = TrajectoryTable(tmp_path, beta=0.5)
    assert len(table) == trajectories.num_rows - 6
    assert sorted(row for rows in table.groups for row in rows) == list(range(6, trajectories.num_rows))
    assert sum(len(rows) for rows in table.sources().values()) == trajectories.num_rows - 6
    with pytest.raises(TbrmError, match="no trajectory to train on"):
        write_trajectories([cut.slice(0, 6)], TrainingConfig(drop_truncated=True), tmp_path)


def test_truncated_responses_stay_in_the_baseline(trajectories: pa.Table, tmp_path: Path) -> None:
    """Of each prompt's four responses the last is truncated and wrong: the others still are better than it."""
    count = trajectories.num_rows // 4
    reasons, rewards = pa.array(["stop", "stop", "stop", "length"] * count), pa.array([1.0, 1.0, 1.0, 0.0] * count)
    place = trajectories.schema.get_field_index
    cut = trajectories.set_column(place("finish_reason"), "finish_reason", reasons)
    cut = cut.set_column(place("reward"), "reward", rewards)
    write_trajectories([cut], TrainingConfig(objective="grpo", drop_truncated=True), tmp_path)
    table = TrajectoryTable(tmp_path, beta=0.5)
    batch = table.read(table.groups[3].tolist())
    assert [t.reward for t in batch] == [1.0, 1.0, 1.0]
    for t in batch:
        assert t.group is not None
        assert (t.group.size, t.group.mean) == (4, 0.75)
        assert t.group.std == pytest.approx(0.5)
        assert t.group.soft_value == pytest.approx(np.log((3 * np.exp(2.0) + 1) / 4))


def test_a_prompt_whose_responses_are_all_cut_is_left_out(trajectories: pa.Table, tmp_path: Path) -> None:
    reasons = pa.array(["stop"] * 4 + ["length"] * 4 + ["stop"] * (trajectories.num_rows - 8))
    cut = trajectories.set_column(trajectories.schema.get_field_index("finish_reason"), "finish_reason", reasons)
    write_trajectories([cut], TrainingConfig(drop_truncated=True), tmp_path)
    table = TrajectoryTable(tmp_path, beta=0.5)
    assert [rows.tolist() for rows in table.groups[:2]] == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert len(table.groups) == 23


@pytest.mark.parametrize("objective", ["grpo", "daa_point", "daa_pair"])
def test_a_single_response_to_a_prompt_cannot_be_compared(
    trajectories: pa.Table, tmp_path: Path, objective: str
) -> None:
    lone = pa.concat_tables([trajectories.slice(0, 8), trajectories.slice(8, 1), trajectories.slice(12)])
    with pytest.raises(TbrmError, match=r"t008 of generation is the only response .*\(1 of 24 prompts.*min_per_prompt"):
        write_trajectories([lone], TrainingConfig.model_validate({"objective": objective}), tmp_path)
    assert write_trajectories([lone], TrainingConfig(), tmp_path) == 93


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.0), ("temperature", 0.7), ("top_p", 0.95)])
@pytest.mark.parametrize("objective", ["grpo", "ppo"])
def test_a_ratio_needs_samples_of_the_model_itself(
    trajectories: pa.Table, tmp_path: Path, objective: str, name: str, value: float
) -> None:
    config = TrainingConfig.model_validate({"objective": objective})
    usual: list[dict[str, float] | None] = [{"temperature": 1.0, "top_p": 1.0}] * trajectories.num_rows
    usual[3] = None  # a log does not tell
    write_trajectories([trajectories.append_column("sampling", pa.array(usual))], config, tmp_path)
    usual[5] = {"temperature": 1.0, "top_p": 1.0} | {name: value}
    sampled = trajectories.append_column("sampling", pa.array(usual))
    with pytest.raises(TbrmError, match=f"t005 of generation was sampled with {name} {value:g}"):
        write_trajectories([sampled], config, tmp_path)
    write_trajectories([sampled], TrainingConfig(), tmp_path)
