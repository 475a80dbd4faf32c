"""Published sets of responses and conversations, and what servers of OpenAI's interface answer."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.logged.formats.base import (
    Fields,
    Format,
    Row,
    conversation,
    given,
    has,
    listed,
    look_up,
    mapped,
    number,
    numbers,
    tools,
)
from pipeline.logged.raw import BadField, LeftOut


def _exported(row: Row) -> Fields:
    """This project, pipeline/logged/exporter.py: what `tbrm export` wrote."""
    components, extra = json.loads(row["components"] or "{}"), json.loads(row["extra"] or "{}")
    same = ("prompt", "response", "prompt_token_ids", "response_token_ids", "response_mask", "behavior_logprobs")
    also = ("finish_reason", "policy", "reward", "answer", "verifier", "prompt_id")
    return {name: row[name] for name in (*same, *also)} | {"components": numbers(components), "extra": extra}


def _open_r1(row: Row) -> Fields:
    """open-r1/OpenR1-Math-220k on the hub (its card lists the columns): generations[], and lists beside them.

    `correctness_math_verify` is the reward; the judge's `correctness_llama` fills in for rows that have none.
    """
    many = len(listed("generations", row["generations"]))
    lists = (row.get("correctness_math_verify"), row.get("correctness_llama"))
    verified = next((each for each in lists if isinstance(each, list) and len(each) == many), None)
    finish = row.get("finish_reasons")
    found = {"prompt": row["problem"], "response": row["generations"], "answer": row.get("answer")}
    named = {"prompt_id": row.get("uuid"), "extra": {"source": row["source"]} if row.get("source") else {}}
    return (
        found | named | {"reward": verified, "finish_reason": finish if isinstance(finish, list) and finish else None}
    )


def _open_math(row: Row) -> Fields:
    """nvidia/OpenMathReasoning on the hub: one generated_solution a row, by the model that the row names."""
    if row.get("inference_mode") == "tir":
        raise LeftOut("inference_mode", "a solution with a tool holds the tool's output unmarked")
    if row.get("inference_mode") == "genselect":
        raise LeftOut("inference_mode", "a choice between solutions, whose prompt is not in the row")
    found = {"prompt": row["problem"], "response": row["generated_solution"], "answer": row.get("expected_answer")}
    return found | {"policy": row.get("generation_model")}


def _sharegpt(row: Row) -> Fields:
    """ShareGPT's `conversations` [{from, value}] (OpenThoughts-114k, ms-swift docs: custom data sets) or pairs
    [{human, assistant}], with `system` beside them."""
    turns = row["conversations"] if "conversations" in row else row["conversation"]
    said: list[Any] = []
    for turn in listed("conversations", turns):
        pair = isinstance(turn, Mapping) and "human" in turn and "assistant" in turn
        both = [("human", "user"), ("assistant", "assistant")]
        said += [{"role": role, "content": turn[name]} for name, role in both] if pair else [turn]
    return {"messages": conversation("conversations", [*_system(row), *said])}


def _system(row: Row) -> list[dict[str, Any]]:
    return [{"role": "system", "content": row["system"]}] if row.get("system") else []


def _history(row: Row) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for pair in listed("history", row.get("history") or []):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadField("history", "must be pairs of a question and its answer", pair)
        found += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return found


def _alpaca(row: Row) -> Fields:
    """modelscope/ms-swift, swift/dataset/preprocessor/core.py, AlpacaPreprocessor: instruction, input, output.

    As there, the user's message is the instruction and, on a new line, the input; `history` and `system` stand before.
    """
    asked = "\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))
    prompt = [*_system(row), *_history(row), {"role": "user", "content": asked}]
    return {"prompt": prompt, "response": [{"role": "assistant", "content": row["output"]}]}


def _query_response(row: Row) -> Fields:
    """modelscope/ms-swift, swift/dataset/preprocessor/core.py, ResponsePreprocessor: query, response and the like."""
    prompt = [*_system(row), *_history(row), {"role": "user", "content": row["query"]}]
    return {"prompt": prompt, "response": [{"role": "assistant", "content": row["response"]}]}


def _openai(row: Row) -> Fields:
    """OpenAI's batch files (vLLM: vllm/entrypoints/openai/run_batch.py) and chat completions, request beside response.

    One row a choice. vLLM's token ids (`return_token_ids`, or tokens written as `token_id:N`) are kept.
    """
    asked, body, choice = row["request"], row["body"], mapped("choices", row["choice"])
    ids, logprobs = _choice_tokens(choice)
    asked_ids = given(choice.get("prompt_token_ids"))
    prompt_ids = given(body.get("prompt_token_ids")) if asked_ids is None else asked_ids
    found: Fields = {
        "finish_reason": choice.get("finish_reason"),
        "policy": body.get("model") or asked.get("model"),
        "reward": row["row"].get("reward"),
        "answer": row["row"].get("answer"),
        "prompt_id": row["row"].get("custom_id"),
        "behavior_logprobs": logprobs,
        "response_token_ids": ids,
        "prompt_token_ids": prompt_ids,
    }
    if "messages" not in asked:
        return found | {"prompt": asked.get("prompt"), "response": choice.get("text")}
    prompt = conversation("messages", asked["messages"])
    if ids is not None:
        return found | {"prompt": prompt, "tools": tools("tools", asked.get("tools"))}
    said = conversation("choices", [choice.get("message")])
    return found | {"prompt": prompt, "response": said, "tools": tools("tools", asked.get("tools"))}


def _choice_tokens(choice: Mapping[str, Any]) -> tuple[Any, Any]:
    """(token ids, their log-probs) of a choice, as far as the server told them."""
    told = choice.get("logprobs")
    told = told if isinstance(told, Mapping) else {}
    content = told.get("content")
    if isinstance(content, list):
        words, logprobs = [look_up(each, "token") for each in content], [look_up(each, "logprob") for each in content]
    else:
        words, logprobs = told.get("tokens") or [], told.get("token_logprobs")
    ids = given(choice.get("token_ids"))
    if ids is None and words and all(isinstance(word, str) and word.startswith("token_id:") for word in words):
        numbers_ = [word.removeprefix("token_id:") for word in words]
        ids = [int(each) for each in numbers_ if each.isdecimal()] if all(map(str.isdecimal, numbers_)) else None
    if isinstance(logprobs, np.ndarray) and ids is not None and len(logprobs) == len(ids):
        return ids, logprobs
    if ids is None or not isinstance(logprobs, list) or len(logprobs) != len(ids):
        return ids, None
    if any(number(each) is None for each in logprobs):
        return ids, None
    return ids, logprobs


def _choices(row: Row) -> Iterator[Row | BadField]:
    """The choices of an answer, each with what was asked."""
    answer: Row = row["response"] if isinstance(row.get("response"), Mapping) else row
    status = answer.get("status_code")
    if row.get("error") or (isinstance(status, int) and status != 200):
        yield LeftOut("response", f"the request failed with status {status}")
        return
    body = mapped("body", answer.get("body", answer))
    given = [row.get("body"), look_up(row, "request.body"), row.get("request"), row]
    asked = next(
        (each for each in given if isinstance(each, Mapping) and ("messages" in each or "prompt" in each)), None
    )
    if asked is None:
        yield BadField(
            "prompt",
            "an answer without its request: put the request's `body` (found by custom_id) beside `response` in a line",
        )
        return
    for choice in listed("choices", body.get("choices")):
        yield {"row": row, "request": asked, "body": body, "choice": choice}


FORMATS = (
    Format(
        "tbrm",
        {"prompt_token_ids": "prompt_token_ids", "response_token_ids": "response_token_ids", "reward": "reward"},
        has("trajectory_id", "prompt_id", "prompt_token_ids", "response_token_ids", "components", "extra"),
        _exported,
    ),
    Format(
        "open-r1",
        {"prompt": "problem", "response": "generations[]", "reward": "correctness_math_verify[]", "answer": "answer"},
        has("problem", "generations"),
        _open_r1,
        bare=True,
    ),
    Format(
        "open-math-reasoning",
        {"prompt": "problem", "response": "generated_solution", "answer": "expected_answer"},
        has("problem", "generated_solution"),
        _open_math,
        bare=True,
    ),
    Format(
        "sharegpt",
        {"messages": "conversations[].from, .value"},
        lambda row: _spoken(row.get("conversations"), "from") or _spoken(row.get("conversation"), "human"),
        _sharegpt,
    ),
    Format(
        "alpaca",
        {"prompt": "instruction, input", "response": "output"},
        has("instruction", "output"),
        _alpaca,
    ),
    Format(
        "query-response",
        {"prompt": "query", "response": "response"},
        lambda row: isinstance(row.get("response"), str) and "query" in row and ("history" in row or "system" in row),
        _query_response,
    ),
    Format(
        "openai",
        {"prompt": "body.messages", "response": "response.body.choices[]"},
        lambda row: (
            ("custom_id" in row and "response" in row)
            or has("messages", "choices")(row)
            or (isinstance(row.get("request"), Mapping) and isinstance(row.get("response"), Mapping))
        ),
        _openai,
        split=_choices,
    ),
)


def _spoken(turns: Any, key: str) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], Mapping) and key in turns[0]
