"""Trainers that log token ids: they are kept as they were sampled."""

from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pipeline.logged.formats.base import (
    ABSENT,
    Fields,
    Format,
    Row,
    conversation,
    given,
    has,
    inside,
    listed,
    look_up,
    mapped,
    marks,
    mean_over,
    number,
    numbers,
    numeric,
    token_ids,
    tools,
)
from pipeline.logged.formats.base import sequence as whole_sequence
from pipeline.logged.formats.rollout_text import versioned
from pipeline.logged.raw import BadField, LeftOut


def _open_instruct(row: Row) -> Fields:
    """allenai/open-instruct, open_instruct/grpo_fast.py: RolloutRecord, one JSON line a rollout."""
    return {
        "prompt_token_ids": row["prompt_tokens"],
        "response_token_ids": row["response_tokens"],
        "reward": row["reward"],
        "finish_reason": row.get("finish_reason"),
        "answer": row.get("ground_truth"),
        "behavior_logprobs": row.get("logprobs"),
    }


def _nemo_rl(row: Row) -> Fields:
    """NVIDIA-NeMo/RL, nemo_rl/algorithms/grpo.py, grpo_train: train_data_stepN.jsonl.

    Logger.log_batched_dict_as_jsonl writes micro-batches of one, so that every value is a list of one; sequences are
    padded on the right to the batch's longest, and `input_lengths` says where they end. Whether the rest of the row is
    trained on (`sample_loss_mask`) is kept as a number. With dynamic sampling `rewards` are those of all samples, in an
    order of their own, and `filtered_rewards` those of the ones that are in the log.
    """
    length = _only("input_lengths", row["input_lengths"])
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise BadField("input_lengths", "must be the length of the sequence", length)
    sides = ("token_ids", "token_loss_mask", "generation_logprobs", "advantages")
    cut = {name: numeric(name, _only(name, row[name]))[:length] for name in sides if row.get(name) is not None}
    if len(cut["token_ids"]) != length:
        raise BadField("token_ids", f"{len(cut['token_ids'])} of {length} tokens: the line is cut off")
    found = whole_sequence(cut["token_ids"], cut["token_loss_mask"], cut.get("generation_logprobs"))
    kept = {name: _only(name, row[name]) for name in ("sample_loss_mask",) if name in row}
    parts = numbers(kept) | _mean_advantage(cut.get("advantages"), marks("token_loss_mask", cut["token_loss_mask"]))
    rewards = "filtered_rewards" if "filtered_rewards" in row else "rewards"
    return found | {"reward": _only(rewards, row[rewards]), "components": parts}


def _only(name: str, value: Any) -> Any:
    """The one element of a list of one."""
    found = listed(name, value)
    if len(found) != 1:
        raise BadField(name, f"holds {len(found)} samples, where the logger writes one a line")
    return found[0]


def _mean_advantage(advantages: Any, written: npt.NDArray[np.bool_]) -> dict[str, float]:
    """The mean over the policy's tokens: there is no place for one a token."""
    mean = mean_over(advantages, written)
    return {} if mean is None else {"advantage": mean}


def _nemo_gym(row: Row) -> Fields:
    """NVIDIA-NeMo/Gym, nemo_gym/rollout_collection.py: an agent's response beside its request, one JSON line each.

    Output items that the model generated carry prompt_token_ids, generation_token_ids and generation_log_probs
    (nemo_gym/openai_utils.py, TokenIDLogProbMixin); each prompt holds all that came before. Without token ids the
    items become messages.
    """
    response, asked = mapped("response", row["response"]), mapped("request", row["responses_create_params"])
    items = [mapped("response.output", item) for item in listed("response.output", response.get("output"))]
    finish = look_up(response, "incomplete_details.reason")
    found: Fields = {
        "reward": row.get("reward"),
        "answer": next((each for each in (row.get("expected_answer"), response.get("expected_answer")) if each), None),
        "prompt_id": f"task-{row['_ng_task_index']}" if "_ng_task_index" in row else None,
        "finish_reason": {"max_output_tokens": "length"}.get(finish) if isinstance(finish, str) else None,
        "policy": response.get("model") or None,
        "components": numbers({k: v for k, v in row.items() if k != "reward" and not k.startswith("_ng_")}),
    }
    sampled = [item for item in items if given(item.get("generation_token_ids")) is not None]
    if sampled:
        return found | joined_turns(sampled)
    asked_for = asked.get("input")
    messages = _from_items([{"role": "user", "content": asked_for}] if isinstance(asked_for, str) else asked_for)
    system = [{"role": "system", "content": asked["instructions"]}] if asked.get("instructions") else []
    said = _from_items(items)
    turns = conversation("response.output", [*system, *messages, *said])
    return found | {"messages": turns, "tools": tools("tools", asked.get("tools"))}


def joined_turns(turns: list[Row]) -> Fields:
    """One sequence out of turns whose prompts each hold all tokens before. Raises BadField where they do not."""
    tokens: npt.NDArray[np.int32] = np.zeros(0, np.int32)
    written: list[npt.NDArray[np.bool_]] = []
    logprobs: list[Any] = []
    complete = True
    for place, turn in enumerate(turns, start=1):
        before = token_ids("prompt_token_ids", turn.get("prompt_token_ids"))
        said = token_ids("generation_token_ids", turn["generation_token_ids"])
        if not np.array_equal(before[: len(tokens)], tokens):
            raise BadField(
                "prompt_token_ids",
                f"turn {place} was not asked with the tokens before it: its context was changed, and no one "
                "sequence was ever sampled",
            )
        written += [np.zeros(len(before) - len(tokens), np.bool_), np.ones(len(said), np.bool_)]
        told = turn.get("generation_log_probs")
        complete = complete and isinstance(told, list | np.ndarray) and len(told) == len(said)
        logprobs.append(told)
        tokens = np.concatenate([before, said])
    marks_ = np.concatenate(written) if written else np.zeros(0, np.bool_)
    return whole_sequence(tokens, marks_, joined(logprobs) if complete else None)


def joined(parts: list[Any]) -> Any:
    """Numbers of several lists in one, an array where all are arrays."""
    if parts and all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [each for part in parts for each in listed("behavior_logprobs", part)]


def _from_items(items: Any) -> list[dict[str, Any]]:
    """Items of OpenAI's Responses API as messages; what one turn of the assistant is made of becomes one message."""
    found: list[dict[str, Any]] = []
    for item in listed("input", items):
        kind = mapped("input", item).get("type", "message")
        if kind == "function_call_output":
            found.append({"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")})
            continue
        role = "assistant" if kind in ("reasoning", "function_call") else item.get("role")
        if role != "assistant":
            found.append({"role": role, "content": _text_of(item.get("content"))})
            continue
        if not (found and found[-1]["role"] == "assistant"):
            found.append({"role": "assistant", "content": []})
        if kind == "reasoning":
            found[-1]["reasoning_content"] = _reasoning(item)
        elif kind == "function_call":
            call = {"id": item.get("call_id"), "name": item.get("name"), "arguments": item.get("arguments")}
            found[-1].setdefault("tool_calls", []).append(call)
        elif kind == "message":
            found[-1]["content"].append(_text_of(item.get("content")))
        else:
            raise BadField("response.output", f"an item of the type {kind!r}", item)
    return [each | {"content": "".join(each["content"])} if each["role"] == "assistant" else each for each in found]


def _reasoning(item: Mapping[str, Any]) -> str:
    parts = item.get("content") or item.get("summary") or []
    if item.get("encrypted_content") or not parts:
        raise BadField("response.output", "its reasoning is not in the log, so the response is not what was sampled")
    return _text_of(parts)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [mapped("content", part).get("text") for part in listed("content", content)]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        raise BadField("content", "holds parts that are not text", content)
    return "".join(texts)


def _prime_rl_tokens(row: Row) -> Fields:
    """PrimeIntellect-ai/prime-rl, src/prime_rl/trainer/rl/token_export.py, TokenExporter: token_exports/step_N/*.jsonl.

    All fields are aligned to `token_ids`. There is no reward: the trainer sees advantages only.
    """
    found = whole_sequence(row["token_ids"], row["loss_mask"], _finite(row.get("inference_logprobs")))
    parts = _mean_advantage(row.get("advantages"), marks("loss_mask", row["loss_mask"]))
    extra = {"env_name": row["env_name"]} if row.get("env_name") else {}
    return found | {"components": parts, "extra": extra, "version": f"step{row['step']}"}


def _finite(values: Any) -> Any:
    """None where any value is missing: the exporter writes null for what is not finite."""
    if isinstance(values, np.ndarray):
        return values
    return None if not isinstance(values, list) or any(each is None for each in values) else values


_STATUS = {"completed": "stop", "truncated": "length"}


def _slime(row: Row) -> Fields:
    """THUDM/slime, slime/utils/types.py, Sample.to_dict (radixark/miles alike): one sample.

    save_debug_rollout_data writes {"rollout_id", "samples": […]} with torch.save; JSON lines of to_dict read the same.
    `loss_mask` and `rollout_log_probs` cover the response, the last `response_length` of `tokens`.
    """
    status = str(row["status"]).lower()
    if status not in _STATUS:
        raise LeftOut("status", f"the sample is {status!r}: nothing was sampled to its end")
    tokens, length = numeric("tokens", row["tokens"]), row["response_length"]
    if not isinstance(length, int) or not 0 < length < len(tokens):
        raise BadField("response_length", f"must lie between 1 and {len(tokens) - 1}, the tokens less one", length)
    mask, logprobs = row.get("loss_mask"), row.get("rollout_log_probs")
    prompt = row.get("prompt")
    found: Fields = {
        "prompt": prompt if isinstance(prompt, str) else None,
        "prompt_token_ids": tokens[:-length],
        "response_token_ids": tokens[-length:],
        "behavior_logprobs": given(logprobs),
        "answer": row.get("label"),
        "finish_reason": _STATUS[status],
        "prompt_id": None if row.get("group_index") is None else f"group-{row['group_index']}",
    }
    if mask is not None:
        found["response_mask"] = marks("loss_mask", mask)
    if not isinstance(row.get("reward"), Mapping):
        found["reward"] = row.get("reward")
    versions = [] if row.get("weight_versions") is None else row["weight_versions"]
    return versioned(found, [int(each) for each in numeric("weight_versions", versions) if str(each).isdecimal()])


def _slime_rewards(row: Row) -> Mapping[str, float]:
    """The entries of a reward that is an object: `--reward-key` of the run names the one that counts."""
    return numbers(row.get("reward"))


def _tinker(row: Row) -> Fields:
    """thinking-machines-lab/tinker-cookbook, tinker_cookbook/capture/store/schema.py, WIRE_ROWS_COLUMNS.

    One row a sampled sequence. Rewards lie in annotations of the run and not beside it.
    """
    place = [row.get("run_id"), row.get("iteration"), row.get("group_idx")]
    reason = look_up(row, "metadata.stop_reason")
    reward = look_up(row, "metadata.reward") if row.get("reward") is None else row["reward"]
    return {
        "prompt_token_ids": row["prompt_tokens"],
        "response_token_ids": row["sampled_tokens"],
        "behavior_logprobs": given(row.get("logprobs")),
        "reward": None if reward is ABSENT else reward,
        "finish_reason": None if reason is ABSENT else reason,
        "prompt_id": "/".join(map(str, place)) if all(each is not None for each in place) else None,
        "policy": row.get("policy_version"),
        "extra": {name: row[name] for name in ("split", "purpose") if row.get(name)},
    }


def _trinity(row: Row) -> Fields:
    """modelscope/Trinity-RFT, trinity/common/experience.py, Experience: tokens, prompt_length, and the response's
    logprobs and action_mask."""
    tokens, length = numeric("tokens", row["tokens"]), row["prompt_length"]
    if not isinstance(length, int) or not 0 < length < len(tokens):
        raise BadField("prompt_length", f"must lie between 1 and {len(tokens) - 1}, the tokens less one", length)
    written = len(tokens) - length
    mask = np.ones(written, np.bool_)
    if row.get("action_mask") is not None:
        mask = marks("action_mask", row["action_mask"])
    if len(mask) != written:
        raise BadField("action_mask", f"{len(mask)} values for {written} response tokens")
    logprobs = row.get("logprobs")
    if isinstance(logprobs, list | np.ndarray) and len(logprobs) == written:
        logprobs = joined([np.zeros(length) if isinstance(logprobs, np.ndarray) else [0.0] * length, logprobs])
    found = whole_sequence(tokens, np.concatenate([np.zeros(length, np.bool_), mask]), logprobs, name="tokens")
    cut = row.get("truncate_status")
    place: Row = row["eid"] if isinstance(row.get("eid"), Mapping) else {}
    found |= {
        "reward": row.get("reward"),
        "prompt": row.get("prompt_text"),
        "response": None if "response_mask" in found else row.get("response_text"),
        "finish_reason": "length" if cut in ("response_truncated", "truncated") else None,
        "prompt_id": f"{place['batch']}/{place['task']}" if "batch" in place and "task" in place else None,
        "components": numbers(row.get("metrics")) | _mean_advantage(row.get("advantages"), mask),
    }
    return versioned(found, [look_up(row, "info.model_version")])


def _rllm(row: Row) -> Fields:
    """rllm-org/rllm, rllm/types.py, Episode.to_dict; rllm/utils/episode_logger.py writes the messages alone.

    One row a trajectory of the episode. Steps whose prompt goes on with the tokens before become one sequence.
    """
    trajectory, steps = (
        row["trajectory"],
        [mapped("steps", step) for step in listed("steps", row["trajectory"]["steps"])],
    )
    if not steps:
        raise LeftOut("steps", "the trajectory has no step")
    reward = trajectory.get("reward")
    found: Fields = {
        "reward": sum(number(step.get("reward")) or 0.0 for step in steps) if reward is None else reward,
        "prompt_id": str(row["id"]).split(":")[0] if row.get("id") else None,
        "answer": next((each for name in ("ground_truth", "answer") if (each := _in_task(row, name))), None),
        "components": numbers(row.get("metrics")) | {"is_correct": float(bool(row.get("is_correct")))},
    }
    found = versioned(found, [step.get("weight_version") for step in steps])
    if str(row.get("termination_reason")).lower() in ("max_response_length_exceeded", "max_prompt_length_exceeded"):
        found["finish_reason"] = "length"
    if all(given(step.get("response_ids")) is not None for step in steps):
        turns: list[Row] = [
            {
                "prompt_token_ids": step.get("prompt_ids"),
                "generation_token_ids": step["response_ids"],
                "generation_log_probs": step.get("logprobs"),
            }
            for step in steps
        ]
        return found | joined_turns(turns)
    return found | {"messages": conversation("chat_completions", steps[-1].get("chat_completions"))}


def _in_task(row: Row, name: str) -> Any:
    found = look_up(row, f"task.{name}")
    return None if found is ABSENT else found


def _rllm_trajectories(row: Row) -> Iterator[Row | BadField]:
    episode = cast("dict[str, Any]", row)  # looked into behind each trajectory, and not copied for each
    for trajectory in listed("trajectories", row["trajectories"]):
        if isinstance(trajectory, Mapping) and "steps" in trajectory:
            yield ChainMap({"id": row.get("id", row.get("episode_id")), "trajectory": trajectory}, episode)
        else:
            yield BadField("trajectories", "has no `steps`")


def _atropos(row: Row) -> Fields:
    """NousResearch/atropos, atroposlib/envs/base.py, ScoredDataGroup: one JSON line a group.

    `masks` repeats the token where it is trained on, and is -100 elsewhere.
    """
    written = marks("masks", row["masks"], off=-100)
    found = whole_sequence(row["tokens"], written, _finite(row.get("inference_logprobs")), name="tokens")
    parts = _mean_advantage(row.get("advantages"), written)
    return found | {"reward": row["scores"], "prompt_id": row["group"], "components": parts}


def _group(row: Row) -> Iterator[Row | BadField]:
    """The sequences of a group. Fields with one value for each sequence are spread, the others left out."""
    tokens = listed("tokens", row["tokens"])
    per = [
        name for name in ("tokens", "masks", "scores", "inference_logprobs", "advantages") if row.get(name) is not None
    ]
    each = {name: listed(name, row[name]) for name in per}
    for name, values in each.items():
        if len(values) != len(tokens):
            yield BadField(name, f"{len(values)} values for {len(tokens)} sequences")
            return
    for place in range(len(tokens)):
        yield {**{name: values[place] for name, values in each.items()}, "group": row.get("group_id")}


def _pipeline_rl(row: Row) -> Fields:
    """ServiceNow/PipelineRL, pipelinerl/rollouts.py, TrainingText: `labels` is -100 where the policy wrote nothing.

    pipelinerl/actor.py puts model_version into `metadata`. `logprobs` has one value for each token of the policy.
    """
    found = whole_sequence(
        row["input_ids"],
        marks("labels", row["labels"], off=-100),
        row.get("logprobs"),
        name="input_ids",
    )
    found |= {
        "reward": row["reward"],
        "prompt_id": row.get("group_id"),
        "finish_reason": None if "finished" not in row else "stop" if row["finished"] else "length",
    }
    return versioned(found, [look_up(row, "metadata.model_version")])


_sequence = {"prompt_token_ids": "tokens", "response_token_ids": "tokens"}

FORMATS = (
    Format(
        "open-instruct",
        {
            **{"prompt_token_ids": "prompt_tokens", "response_token_ids": "response_tokens"},
            **{"reward": "reward", "answer": "ground_truth"},
        },
        has("prompt_tokens", "response_tokens", "reward"),
        _open_instruct,
    ),
    Format(
        "nemo-rl",
        {**_sequence, "response_mask": "token_loss_mask", "reward": "rewards"},
        has("token_ids", "token_loss_mask", "input_lengths", "rewards"),
        _nemo_rl,
    ),
    Format(
        "nemo-gym",
        {"messages": "responses_create_params.input, response.output", "reward": "reward"},
        has("responses_create_params", "response"),
        _nemo_gym,
    ),
    Format(
        "prime-rl-tokens",
        {**_sequence, "response_mask": "loss_mask", "behavior_logprobs": "inference_logprobs"},
        has("token_ids", "loss_mask", "inference_logprobs", "trainer_logprobs"),
        _prime_rl_tokens,
        notes=("prime-rl exports advantages and no rewards",),
    ),
    Format(
        "slime",
        {**_sequence, "response_mask": "loss_mask", "reward": "reward", "answer": "label"},
        lambda row: has("tokens", "response_length", "status")(row) or has("rollout_id", "samples")(row),
        _slime,
        split=inside("samples"),
        rewards=_slime_rewards,
    ),
    Format(
        "tinker",
        {"prompt_token_ids": "prompt_tokens", "response_token_ids": "sampled_tokens", "policy": "policy_version"},
        has("prompt_tokens", "sampled_tokens"),
        _tinker,
        notes=("the capture store keeps rewards apart from sampled rows",),
    ),
    Format(
        "trinity",
        {**_sequence, "response_mask": "action_mask", "reward": "reward"},
        has("tokens", "prompt_length"),
        _trinity,
    ),
    Format(
        "rllm",
        {"messages": "trajectories[].steps[]", "reward": "trajectories[].reward"},
        lambda row: "trajectories" in row and ("termination_reason" in row or "is_correct" in row),
        _rllm,
        split=_rllm_trajectories,
    ),
    Format(
        "atropos",
        {**_sequence, "response_mask": "masks", "reward": "scores"},
        has("tokens", "masks", "scores"),
        _atropos,
        split=_group,
    ),
    Format(
        "pipeline-rl",
        {"prompt_token_ids": "input_ids", "response_token_ids": "input_ids", "response_mask": "labels"},
        lambda row: has("input_ids", "labels", "reward")(row) or "training_texts" in row,
        _pipeline_rl,
        split=inside("training_texts"),
    ),
)
