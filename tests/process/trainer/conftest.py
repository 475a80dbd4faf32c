"""A tiny policy and trajectories of it, scored under itself as the reference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config.policy import PolicyConfig
from pipeline.config.training import TrainingConfig
from pipeline.policies.tiny import save_tiny_arith
from trainer.data.trajectories import SCHEMA, write_trajectories
from trainer.job import TrainJob

MODEL = PolicyConfig(base="builtin:tiny-arith", dtype="float32")
EOS, EQUALS, PLUS, DIGIT0 = 2, 14, 13, 3
MakeJob = Callable[..., TrainJob]


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    save_tiny_arith(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def trajectories(policy: Path) -> pa.Table:
    """24 prompts with 4 responses of 1 to 7 tokens; the reward is 1 when the first digit is even."""
    from pipeline.policies.load_save import load_model
    from pipeline.scoring.scoring import score_trajectories

    rng = np.random.default_rng(0)
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    for _ in range(24):
        prompt = [*(DIGIT0 + rng.integers(0, 10, 2)), PLUS, *(DIGIT0 + rng.integers(0, 10, 2)), EQUALS]
        for _ in range(4):
            prompts.append([int(t) for t in prompt])
            responses.append([int(t) for t in DIGIT0 + rng.integers(0, 10, rng.integers(0, 7))] + [EOS])
    scored = score_trajectories(load_model(str(policy), MODEL), prompts, responses, 512)
    count = len(prompts)
    return pa.table(
        {
            "trajectory_id": [f"t{i:03d}" for i in range(count)],
            "prompt_id": [f"p{i // 4}" for i in range(count)],
            "prompt_token_ids": prompts,
            "response_token_ids": responses,
            "response_mask": pa.nulls(count, pa.list_(pa.bool_())),
            "finish_reason": ["stop"] * count,
            "behavior_logprobs": [np.asarray(s[0]) for s in scored],
            "reward": [float(r[0] % 2 == 1) for r in responses],
            "token_rewards": pa.nulls(count, pa.list_(pa.float32())),
            "ref_token_logprobs": [np.asarray(s[0]) for s in scored],
            "ref_value_first": [float(s[1]) for s in scored],
            "source": ["generation"] * (count // 2) + ["elsewhere"] * (count // 2),
            "lag": [0] * (count // 2) + [3] * (count // 2),
            "group": [f"0/p{i // 4}" for i in range(count)],
        }
    ).cast(SCHEMA)


@pytest.fixture
def make_job(policy: Path, trajectories: pa.Table, tmp_path: Path) -> MakeJob:
    """A job in its own folder; keyword arguments go to TrainingConfig, `name` names the folder."""

    def make(name: str = "job", updates: int = 2, **training: Any) -> TrainJob:
        settings: dict[str, Any] = {
            "learning_rate": 3e-4,
            "prompt_batch": 8,
            "micro_batch_tokens": 128,
            "weight_decay": 0.0,
        }
        config = TrainingConfig.model_validate(settings | training)
        state = tmp_path / name
        write_trajectories([trajectories], config, state)
        return TrainJob(f"test {name}", policy, state, MODEL, config, updates, seed=7, config_hash="hash")

    return make
