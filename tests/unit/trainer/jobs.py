"""Training jobs on the tiny policy, on a mix of two sources with all that an objective may need."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config.policy import PolicyConfig
from pipeline.config.training import TrainingConfig
from pipeline.policies.load_save import load_model
from pipeline.policies.tiny import save_tiny_arith
from pipeline.scoring.scoring import score_trajectories
from trainer.data.trajectories import SCHEMA, write_trajectories
from trainer.job import TrainJob

MODEL = PolicyConfig(base="builtin:tiny-arith", dtype="float32")
VOCABULARY, EOS = 17, 2
SEED = 7
BETA = 0.4


def policy_folder(folder: Path, seed: int = 0) -> Path:
    folder.mkdir()
    save_tiny_arith(folder, seed=seed)
    return folder


def mix(policy: Path, reference: Path, prompts: int = 6, n: int = 3) -> pa.Table:
    """`prompts` prompts with `n` responses of 2 to 8 tokens: the first half sampled by a policy near `policy`, with an
    environment's token in the middle of every third response; the second half logged, three generations ago, truncated
    where the prompt's number is even."""
    rng = np.random.default_rng(0)
    count = prompts * n
    prompt_ids = [rng.integers(3, VOCABULARY, 4).tolist() for _ in range(prompts) for _ in [0]]
    prompt_ids = [ids for ids in prompt_ids for _ in range(n)]
    responses = [[*rng.integers(3, VOCABULARY, rng.integers(2, 8)).tolist(), EOS] for _ in range(count)]
    masks = [[at != 1 or i % 3 != 0 for at in range(len(r))] for i, r in enumerate(responses)]
    masks_given = [mask if i % 3 == 0 else None for i, mask in enumerate(masks)]
    arrays = [np.array(mask) for mask in masks]
    scored = score_trajectories(load_model(str(reference), MODEL), prompt_ids, responses, 512, arrays)
    behaviour = score_trajectories(load_model(str(policy), MODEL), prompt_ids, responses, 512, arrays)
    half = count // 2
    return pa.table(
        {
            "trajectory_id": [f"t{i:03d}" for i in range(count)],
            "prompt_id": [f"p{i // n}" for i in range(count)],
            "prompt_token_ids": prompt_ids,
            "response_token_ids": responses,
            "response_mask": pa.array(masks_given, pa.list_(pa.bool_())),
            "finish_reason": ["length" if i >= half and (i // n) % 2 == 0 else "stop" for i in range(count)],
            "behavior_logprobs": [(s[0] - 0.05 * np.arange(len(s[0]))).tolist() for s in behaviour],
            "reward": [float(i % 3) / 2 for i in range(count)],
            "token_rewards": pa.nulls(count, pa.list_(pa.float32())),
            "ref_token_logprobs": [s[0].tolist() for s in scored],
            "ref_value_first": [float(s[1]) for s in scored],
            "source": ["generation"] * half + ["elsewhere"] * (count - half),
            "lag": [0] * half + [3] * (count - half),
            "group": [f"0/p{i // n}" for i in range(count)],
        }
    ).cast(SCHEMA)


def job_of(table: pa.Table, policy: Path, state: Path, updates: int = 2, **training: Any) -> TrainJob:
    """A job whose mix lies in `state`; `training` are fields of TrainingConfig."""
    given = {"beta": BETA, "learning_rate": 1e-3, "prompt_batch": 4, "micro_batch_tokens": 30}
    given |= {"weight_decay": 0.1, "adam_eps": 1e-4}  # a smaller ε makes steps of rounding where a gradient is almost 0
    config = TrainingConfig.model_validate(given | training)
    write_trajectories([table.slice(0, 5), table.slice(5)], config, state)
    return TrainJob(f"test {state.name}", policy, state, MODEL, config, updates, seed=SEED, config_hash="hash")


def with_dtype(job: TrainJob, dtype: str) -> TrainJob:
    return replace(job, model=job.model.model_copy(update={"dtype": dtype}))
