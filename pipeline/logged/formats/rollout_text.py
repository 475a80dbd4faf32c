"""Trainers that log prompt and response as text."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.logged.formats.base import ABSENT, Fields, Format, Row, has, listed, look_up, number, numbers
from pipeline.logged.raw import BadField

_MOST_CELLS = 2**22
"""Rows times fields of a line of columns: what holds for all rows is looked at in each."""
_ANSWERS = ("answer", "ground_truth", "gold", "gts", "target", "solution", "reference_answer")


def _verl(row: Row) -> Fields:
    """volcengine/verl, verl/trainer/ppo/ray_trainer.py, RayPPOTrainer._dump_generations: one JSON line a sample.

    `_log_rollout_data` decodes prompt and response with skip_special_tokens; further keys come from the reward
    function (`reward_extra_info`) and from the batch (`request_id`, in forks `uid`).
    """
    found = {"prompt": row["input"], "response": row["output"], "reward": row["score"], "answer": row.get("gts")}
    known = ("input", "output", "gts", "score", "step")
    parts = numbers({name: value for name, value in row.items() if name not in known})
    return found | {"components": parts, "prompt_id": row.get("uid")} | _at_step(row.get("step"))


def _trl(row: Row) -> Fields:
    """huggingface/trl, trl/trainer/grpo_trainer.py, GRPOTrainer.log (rloo_trainer.py alike): completions/*.parquet.

    Columns step, prompt, completion, one for each reward function, what these logged besides (`log_extra`), advantage.
    Prompt and completion are decoded with skip_special_tokens in `_generate_and_score_completions`.
    """
    answer = next((row[name] for name in _ANSWERS if isinstance(row.get(name), str)), None)
    parts = {**_advantage(row), **_table_rewards(row)}
    found = {"prompt": row["prompt"], "response": row["completion"], "components": parts, "answer": answer}
    return found | _at_step(row.get("step"))


def _table_rewards(row: Row) -> Mapping[str, float]:
    """The columns of a completions table that may be rewards: `reward` where there is one, else every number."""
    if (whole := number(row.get("reward"))) is not None:
        return {"reward": whole}
    known = ("step", "advantage", "advantages", "entropy", "images", "image", "gen_step")
    found = {name: value for name, value in row.items() if name not in known and not isinstance(value, bool)}
    shown = {name: number(value) for name, value in found.items() if isinstance(value, float | int)}
    return {name: math.nan if value is None else value for name, value in shown.items()}


def _advantage(row: Row) -> dict[str, float]:
    value = number(row.get("advantage", row.get("advantages")))
    return {} if value is None else {"advantage": value}


def _ms_swift(row: Row) -> Fields:
    """modelscope/ms-swift, swift/rlhf_trainers/grpo_trainer.py, GRPOTrainer.log: completions.jsonl.

    A line is one log step, and each of its fields a column: step, prompt, completion, the reward functions, advantages.
    """
    return _trl(row)


def _roll(row: Row) -> Fields:
    """alibaba/ROLL, roll/pipeline/rlvr/utils.py, dump_rollout_to_specific_path: rollout_dump_data.step_N.jsonl.

    A file is one line whose fields are columns; `responses` are decoded with skip_special_tokens.
    """
    found = {"prompt": row["prompt"], "response": row["responses"], "reward": row["scores"]}
    extra = {name: row[name] for name in ("source", "difficulty", "tag", "domain") if row.get(name)}
    asked = {"answer": row.get("ground_truth"), "prompt_id": row.get("id"), "extra": extra}
    return found | asked | _at_step(row.get("global_step"))


def _skyrl(row: Row) -> Fields:
    """NovaSky-AI/SkyRL, skyrl/train/utils/trainer_utils.py, dump_per_dataset_eval_results: DATA_SOURCE.jsonl.

    Text is decoded with its special tokens. `score` is one number, or one for each token of the response.
    """
    score = row["score"]
    if isinstance(score, list):
        if not score or any(number(each) is None for each in score):
            raise BadField("reward", "`score` holds something else than numbers", score)
        score = sum(score)
    places = ("env_extras.reward_spec.ground_truth", "env_extras.reward_model.ground_truth")
    answer = next((found for place in places if (found := look_up(row, place)) is not ABSENT), None)
    return {
        "prompt": row["input_prompt"],
        "response": row["output_response"],
        "reward": score,
        "finish_reason": row.get("stop_reason"),
        "answer": answer,
        "extra": {name: row[name] for name in ("data_source", "env_class") if row.get(name)},
    }


def _areal(row: Row) -> Fields:
    """inclusionAI/AReaL, areal/infra/workflow_executor.py, WorkflowExecutor._dump_trajectory: VERSION/TASK.jsonl.

    Text is decoded with its special tokens; `head_version` and `tail_version` are the oldest and the newest weights
    that sampled it. A trajectory of several turns has `segments` beside it; before AReaL wrote these, `prompt_len` was
    `seqlen` less the tokens of the policy, so that one was cut at the wrong place and cannot be told from others.
    """
    if row.get("segments"):
        raise BadField(
            "segments",
            "several turns, whose text cannot be tokenized as it was sampled: log messages, or token ids with a mask",
        )
    head, tail = row["head_version"], row["tail_version"]
    found = {
        "prompt": row["prompt"],
        "response": row["completion"],
        "reward": row["reward"],
        "prompt_id": None if row.get("task_id") is None else f"task-{row['task_id']}",
    }
    return versioned(found, [head, tail])


def _at_step(step: Any) -> Fields:
    """The version of the policy is the training step, where the log has one."""
    return {} if step is None or isinstance(step, bool | list | dict) else {"version": f"step{step}"}


def versioned(found: Fields, versions: list[Any]) -> Fields:
    """`found` with the newest version of the policy; that it changed within the response is one of its numbers."""
    known = [each for each in versions if isinstance(each, int) and each >= 0]
    if not known:
        return found
    lag = {"policy_lag": float(max(known) - min(known))} if len(known) > 1 else {}
    return found | {"version": f"v{max(known)}", "components": found.get("components", {}) | lag}


def columns(row: Row) -> int | None:
    """The rows of a line whose fields are columns; None for a line that is one row."""
    prompts = next((row[name] for name in ("prompt", "prompts", "input", "messages") if name in row), None)
    answers = next((row[name] for name in ("completion", "response", "responses", "output") if name in row), None)
    if not (isinstance(prompts, list) and isinstance(answers, list) and prompts):
        return None
    return None if isinstance(prompts[0], Mapping) else len(prompts)


def turned(row: Row) -> Iterator[Row | BadField]:
    """The rows of a line of columns. Fields that are no list hold for all of them."""
    many = columns(row)
    if many is None:
        yield BadField("", "is one row, while the first line of the log has a column in each field")
        return
    if many * len(row) > _MOST_CELLS:
        yield BadField("", f"{many:,} rows of {len(row):,} fields are more than {_MOST_CELLS:,} values in one line")
        return
    lists = {name: listed(name, value) for name, value in row.items() if isinstance(value, list | np.ndarray)}
    for name, value in lists.items():
        if len(value) != many:
            yield BadField(name, f"{len(value)} values in a line of {many} prompts", value[:3])
            return
    for place in range(many):
        yield {name: value[place] if name in lists else value for name, value in row.items()}


_swift_table = has("step", "prompt", "completion", "advantages")
_text = {"prompt": "prompt", "response": "completion"}

FORMATS = (
    Format(
        "verl",
        {"prompt": "input", "response": "output", "reward": "score", "answer": "gts"},
        has("input", "output", "score"),
        _verl,
        stripped=True,
    ),
    Format(
        "trl",
        {**_text, "reward": "reward columns"},
        lambda row: (
            has("prompt", "completion")(row)
            and ("advantage" in row or "step" in row)
            and not (_swift_table(row) or has("prompt_len", "seqlen")(row) or "example_id" in row)
        ),
        _trl,
        rewards=_table_rewards,
        stripped=True,
    ),
    Format("ms-swift", {**_text, "reward": "reward columns"}, _swift_table, _ms_swift, rewards=_table_rewards),
    Format(
        "roll",
        {"prompt": "prompt", "response": "responses", "reward": "scores", "answer": "ground_truth"},
        has("prompt", "responses", "scores", "global_step"),
        _roll,
        stripped=True,
    ),
    Format(
        "skyrl",
        {"prompt": "input_prompt", "response": "output_response", "reward": "score", "answer": "env_extras"},
        has("input_prompt", "output_response", "score"),
        _skyrl,
    ),
    Format(
        "areal",
        {**_text, "reward": "reward", "policy": "tail_version"},
        has("prompt", "completion", "prompt_len", "seqlen", "tail_version"),
        _areal,
    ),
)
