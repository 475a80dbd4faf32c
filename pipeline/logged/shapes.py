"""Logs of known tools, recognized by their field names, and maps from a user's own names to ours.

Field names of the known shapes: verl's `_dump_generations` (input, output, gts, score, step), TRL's completion tables
(step, prompt, completion, one column for each reward function, advantage), lm-evaluation-harness' `--log_samples`
(doc_id, doc, target, arguments, resps, filtered_resps, metrics), open-instruct's `RolloutRecord` (prompt_tokens,
response_tokens, reward, finish_reason, ground_truth, logprobs) and OpenAI-style `messages`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import TbrmError

Row = Mapping[str, Any]
TARGETS = (
    *("prompt", "response", "messages", "prompt_token_ids", "response_token_ids", "response_mask"),
    *(
        "behavior_logprobs",
        "reward",
        "answer",
        "finish_reason",
        "prompt_id",
        "policy",
        "tokenizer",
        "verifier",
        "extra",
    ),
)
ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "problem", "query", "instruction", "input"),
    "response": (
        "response",
        "responses",
        "completion",
        "completions",
        "output",
        "outputs",
        "generation",
        "model_output",
    ),
    "messages": ("messages", "conversation", "conversations"),
    "prompt_token_ids": ("prompt_token_ids", "prompt_ids", "prompt_tokens"),
    "response_token_ids": ("response_token_ids", "completion_ids", "response_ids", "response_tokens", "token_ids"),
    "response_mask": ("response_mask", "loss_mask", "completion_mask"),
    "behavior_logprobs": ("behavior_logprobs", "logprobs", "response_logprobs", "old_log_probs", "rollout_log_probs"),
    "reward": ("reward", "rewards", "score", "scores", "is_correct", "correct"),
    "answer": ("answer", "ground_truth", "gold", "gts", "target", "solution", "reference_answer"),
    "finish_reason": ("finish_reason", "finish_reasons", "stop_reason"),
    "prompt_id": ("prompt_id", "problem_id", "question_id", "uid"),
}
_MAX_NAME = 80
_TRL_NOT_REWARDS = {"step", "advantage", "images", "image"}


@dataclass(frozen=True)
class Shape:
    """How rows of a log become our fields. `fields` says which of theirs are read, for people."""

    name: str
    fields: Mapping[str, str]
    adapt: Callable[[Row], dict[str, Any]]


def recognize(row: Row, chosen: Mapping[str, str]) -> Shape:
    """The shape of a log whose first readable row is `row`. `chosen` maps targets to dotted paths and comes first.

    Raises TbrmError naming the row's fields when neither a response nor messages can be found.
    """
    unknown = [target for target in chosen if target not in TARGETS]
    if unknown:
        raise TbrmError(f"--map {unknown[0]}=…: the fields to map to are {', '.join(TARGETS)}")
    for target, path in chosen.items():
        if look_up(row, path) is _ABSENT:
            raise TbrmError(
                f"--map {target}={path}: the first row has no {path!r}; its fields are {', '.join(paths(row))}"
            )
    known = next((shape for fits, shape in _KNOWN if fits(row)), None)
    base = known or _by_alias(row, chosen)
    if not chosen:
        _check_complete(base.fields, row)
        return base
    fields = {**base.fields, **chosen}
    _check_complete(fields, row)

    def adapt(row: Row) -> dict[str, Any]:
        mapped = {target: found for target, path in chosen.items() if (found := look_up(row, path)) is not _ABSENT}
        return {**base.adapt(row), **mapped}

    return Shape(f"{base.name} with --map", fields, adapt)


_ABSENT: Any = object()


def look_up(row: Any, path: str) -> Any:
    """The value at a dotted path (`extra.reward`, `choices.0.text`), or a marker when it is not there."""
    if isinstance(row, Mapping) and path in row:
        return row[path]
    row = row.tolist() if isinstance(row, np.ndarray) else row
    head, _, rest = path.partition(".")
    if isinstance(row, Mapping) and head in row:
        return look_up(row[head], rest) if rest else row[head]
    if isinstance(row, Sequence) and not isinstance(row, str | bytes) and head.isdecimal() and int(head) < len(row):
        return look_up(row[int(head)], rest) if rest else row[int(head)]
    return _ABSENT


def paths(row: Row, limit: int = 40) -> list[str]:
    """Dotted paths of a row's fields, for error messages."""
    found: list[str] = []
    for key, value in row.items():
        inner = [f"{key}.{name}" for name in value] if isinstance(value, Mapping) else []
        found += [name[:_MAX_NAME] for name in inner or [str(key)]]
        if len(found) >= limit:
            break
    return found[:limit]


def _check_complete(fields: Mapping[str, str], row: Row) -> None:
    has_prompt = {"prompt", "messages", "prompt_token_ids"} & fields.keys()
    has_response = {"response", "messages", "response_token_ids"} & fields.keys()
    if has_prompt and has_response:
        return
    missing = "prompt" if not has_prompt else "response"
    raise TbrmError(
        f"which field is the {missing}? The first row has {', '.join(paths(row))}. "
        f"Say it with --map {missing}=FIELD (dotted paths reach inside)"
    )


def _by_alias(row: Row, chosen: Mapping[str, str]) -> Shape:
    fields: dict[str, str] = {}
    for target, names in ALIASES.items():
        used = {*fields.values(), *chosen.values()}
        name = next((name for name in names if row.get(name) is not None and name not in used), None)
        if target not in chosen and name is not None:
            fields[target] = name
    if "messages" in fields and ("response" in fields or "response" in chosen):
        del fields["messages"]  # a prompt and its response say more than the conversation they stand in

    def adapt(row: Row) -> dict[str, Any]:
        return {target: row.get(name) for target, name in fields.items()}

    return Shape("fields by name", fields, adapt)


def _verl(row: Row) -> dict[str, Any]:
    return {"prompt": row["input"], "response": row["output"], "reward": row["score"], "answer": row.get("gts")}


def _trl(row: Row) -> dict[str, Any]:
    columns = {name: value for name, value in row.items() if name not in _TRL_NOT_REWARDS}
    parts = {n: v for n, v in columns.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    found: dict[str, Any] = {"prompt": row["prompt"], "response": row["completion"], "components": parts}
    if "reward" in parts:
        found["reward"] = parts["reward"]
    elif parts:
        found["reward"] = sum(parts.values())  # TRL's default weights are 1
    answer = next((row[name] for name in ALIASES["answer"] if isinstance(row.get(name), str)), None)
    return found | {"answer": answer}


def _lm_eval(row: Row) -> dict[str, Any]:
    arguments = row["arguments"]
    first = look_up(arguments, "gen_args_0.arg_0" if isinstance(arguments, Mapping) else "0.0")
    prompt = first[0] if isinstance(first, list) and len(first) == 1 and isinstance(first[0], str) else first
    if isinstance(prompt, str) and prompt.startswith('[{"role"'):  # a chat, written as JSON text
        prompt = json.loads(prompt)
    responses = [text for request in row["resps"] for text in (request if isinstance(request, list) else [request])]
    metrics = row.get("metrics") or ["exact_match", "acc"]
    reward = next((row[name] for name in metrics if name in row), None)
    found = {"prompt": prompt, "response": responses, "answer": row.get("target"), "prompt_id": str(row["doc_id"])}
    # The metric is one number a document: it is the reward only where there is one response.
    return found | ({"reward": reward} if len(responses) == 1 and reward is not None else {})


def _open_instruct(row: Row) -> dict[str, Any]:
    return {
        "prompt_token_ids": row["prompt_tokens"],
        "response_token_ids": row["response_tokens"],
        "reward": row["reward"],
        "finish_reason": row.get("finish_reason"),
        "answer": row.get("ground_truth"),
        "behavior_logprobs": row.get("logprobs"),
    }


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names)


_KNOWN: tuple[tuple[Callable[[Row], bool], Shape], ...] = (
    (
        _has("input", "output", "score"),
        Shape("verl", {"prompt": "input", "response": "output", "reward": "score", "answer": "gts"}, _verl),
    ),
    (
        _has("prompt_tokens", "response_tokens", "reward"),
        Shape(
            "open-instruct",
            {
                "prompt_token_ids": "prompt_tokens",
                "response_token_ids": "response_tokens",
                "reward": "reward",
                "answer": "ground_truth",
            },
            _open_instruct,
        ),
    ),
    (
        _has("doc_id", "resps", "arguments"),
        Shape(
            "lm-eval", {"prompt": "arguments", "response": "resps", "reward": "metrics", "answer": "target"}, _lm_eval
        ),
    ),
    (
        lambda row: _has("prompt", "completion")(row) and ("advantage" in row or "step" in row),
        Shape("trl", {"prompt": "prompt", "response": "completion", "reward": "reward columns"}, _trl),
    ),
)
