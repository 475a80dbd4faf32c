"""Which training state a generation starts from, and when it refuses to start without."""

import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Experiment, build_experiment
from pipeline.errors import TbrmError
from trainer.engine.checkpoint import Checkpoint, checkpoint_path, mark_exported, trained_parts, write_checkpoint
from trainer.stages.policy_folder import carried

LORA = {"rank": 4}


def experiment(dtype: str = "float32", **training: Any) -> Experiment:
    return build_experiment(
        {
            "name": "words",
            "generations": 3,
            "policy": {"base": "builtin:tiny-arith", "dtype": dtype},
            "prompts": {"source": "arithmetic", "template": "raw", "per_generation": 16},
            "rollouts": {"engine": "transformers", "n": 2, "max_tokens": 5},
            "training": training,
        },
        "test",
    )


def leave_state(states: Path, by: Experiment, policy_id: str = "policy1") -> Path:
    """The last checkpoint of generation 0, as `by` would have written it."""
    path = checkpoint_path(states / "generation=0000", 2)
    parts = trained_parts(by.policy, by.training)
    write_checkpoint(Checkpoint(path, 2, 2, "hash", 1, 1, parts), lambda folder: None, leader=True)
    mark_exported(Checkpoint(path, 2, 2, "hash", 1, 1, parts), policy_id)
    return path


@pytest.mark.parametrize("before", [experiment(), experiment("bfloat16"), experiment(objective="ppo")])
def test_the_state_of_the_same_settings_is_carried(tmp_path: Path, before: Experiment) -> None:
    path = leave_state(tmp_path, before)
    assert carried(before, tmp_path, 1, "policy1") == path
    assert carried(before, tmp_path, 0, "policy1") is None


@pytest.mark.parametrize(
    ("dtype", "objective", "needed"),
    [
        ("float32", "tbrm", False),
        ("bfloat16", "tbrm", True),
        ("float32", "ppo", True),
        ("float32", "sac_multi", True),
    ],
)
def test_a_fresh_optimizer_needs_the_state_for_what_no_folder_holds(
    tmp_path: Path, dtype: str, objective: str, needed: bool
) -> None:
    given = experiment(dtype, objective=objective, optimizer_state="fresh")
    path = leave_state(tmp_path, given)
    assert carried(given, tmp_path, 1, "policy1") == (path if needed else None)


@pytest.mark.parametrize("optimizer_state", ["carry", "fresh"])
@pytest.mark.parametrize("lost", ["absent", "of another policy"])
@pytest.mark.parametrize(
    ("dtype", "objective", "words"),
    [
        ("bfloat16", "tbrm", "the fp32 master weights would be lost"),
        ("float32", "ppo", "the critic would be lost"),
        ("bfloat16", "sac_single", "the fp32 master weights and the critic would be lost"),
    ],
)
def test_a_lost_critic_or_master_weights_are_refused(
    tmp_path: Path, dtype: str, objective: str, words: str, lost: str, optimizer_state: str
) -> None:
    given = experiment(dtype, objective=objective, optimizer_state=optimizer_state)
    if lost != "absent":
        leave_state(tmp_path, given, "policy9")
    with pytest.raises(TbrmError, match=f"no training state of policy policy1: {words}.*generation=0000"):
        carried(given, tmp_path, 1, "policy1")


def test_lost_moments_alone_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert carried(experiment(), tmp_path, 1, "policy1") is None
    assert "AdamW starts anew" in caplog.text


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"objective": "ppo"}),
        ({}, {"objective": "sac_multi"}),
        ({"objective": "ppo"}, {"objective": "sac_multi"}),
        ({}, {"lora": LORA}),
        ({"lora": LORA}, {}),
        ({"lora": LORA}, {"lora": {"rank": 8}}),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_can_be_left_out(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any]
) -> None:
    path = leave_state(tmp_path, experiment(**before))
    with pytest.raises(TbrmError, match=r"does not fit: it holds policy .*optimizer_state: fresh"):
        carried(experiment(**now), tmp_path, 1, "policy1")
    left = carried(experiment(**now, optimizer_state="fresh"), tmp_path, 1, "policy1")
    assert left == (path if "objective" in now else None)


def test_an_objective_without_a_critic_goes_on_from_one_with(tmp_path: Path) -> None:
    path = leave_state(tmp_path, experiment(objective="ppo"))
    assert carried(experiment(), tmp_path, 1, "policy1") == path


def test_master_weights_of_other_parts_are_not_given_up(tmp_path: Path) -> None:
    leave_state(tmp_path, experiment("bfloat16"))
    with pytest.raises(TbrmError, match="does not fit"):
        carried(experiment("bfloat16", lora=LORA, optimizer_state="fresh"), tmp_path, 1, "policy1")
