"""Harnesses that evaluate policies and keep the responses."""

import json
from collections.abc import Mapping
from typing import Any

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
    numbers,
    sampled_turns,
)
from pipeline.logged.raw import BadField, LeftOut

_EXECUTED = "```output"


def _lm_eval(row: Row) -> Fields:
    """EleutherAI/lm-evaluation-harness, lm_eval/evaluator.py, evaluate: samples_TASK_DATE.jsonl of --log_samples.

    One line for each document and filter; `resps` are the model's words, `filtered_resps` what a filter made of them.
    """
    arguments = row["arguments"]
    requests = list(arguments.values()) if isinstance(arguments, Mapping) else listed("arguments", arguments)
    if len(requests) != 1:
        raise BadField("prompt", f"{len(requests)} requests for one document: choices that were given, not sampled")
    first = look_up(requests[0], "arg_0" if isinstance(requests[0], Mapping) else "0")
    prompt = first[0] if isinstance(first, list) and len(first) == 1 and isinstance(first[0], str) else first
    if isinstance(prompt, str) and prompt.startswith('[{"role"'):  # a chat, written as JSON text
        prompt = json.loads(prompt)
    responses = _lm_eval_responses(row)
    if any(not isinstance(text, str) for text in responses):
        raise BadField("response", "log-likelihoods of given text, not sampled responses", responses[0])
    return {
        "prompt": prompt,
        "response": responses,
        "answer": row.get("target"),
        "prompt_id": str(row["doc_id"]),
    }


def _lm_eval_responses(row: Row) -> list[Any]:
    return [text for request in row["resps"] for text in (request if isinstance(request, list) else [request])]


def _lm_eval_rewards(row: Row) -> Mapping[str, float]:
    """The metrics of a document: each is one number a document, so the reward of a response only where that is one."""
    if len(_lm_eval_responses(row)) != 1:
        return {}
    return numbers(
        {name: row.get(name) for name in row.get("metrics") or ("exact_match", "acc") if isinstance(name, str)}
    )


def _lm_eval_identity(row: Row) -> str | None:
    """Lines of several filters repeat one response."""
    return None if "filter" not in row else json.dumps([row["doc_id"], row.get("doc_hash"), row["resps"]], default=str)


def _lighteval(row: Row) -> Fields:
    """huggingface/lighteval, src/lighteval/logging/info_loggers.py, DetailsLogger.Detail: details_TASK_DATE.parquet.

    `doc` (tasks/requests.py, Doc), `model_response` (models/model_output.py, ModelResponse) and `metric`.
    """
    doc, said = mapped("doc", row["doc"]), mapped("model_response", row["model_response"])
    texts, output = said.get("text") or [], said.get("output_tokens") or []
    if not texts:
        raise BadField("response", "no text: log-likelihoods of given choices, not sampled responses")
    gold, choices = doc.get("gold_index"), doc.get("choices") or []
    gold = gold[0] if isinstance(gold, list) and len(gold) == 1 else gold
    found: Fields = {
        "prompt": given(said.get("input")) or None,
        "response": texts,
        "answer": choices[gold] if isinstance(gold, int) and 0 <= gold < len(choices) else None,
        "prompt_id": str(doc["id"]) if doc.get("id") not in (None, "") else None,
    }
    asked = given(said.get("input_tokens"))
    if asked is not None and len(output) == len(texts) and all(given(each) is not None for each in output):
        found |= {"prompt_token_ids": asked, "response_token_ids": output}
    if not isinstance(found["prompt"], str | list):
        found["prompt"] = None
    return found


def _lighteval_rewards(row: Row) -> Mapping[str, float]:
    """Metrics of one document; over several samples they are averages, or pass@k, and no response's reward."""
    return numbers(row.get("metric")) if len(look_up(row, "model_response.text") or []) == 1 else {}


def _inspect(row: Row) -> Fields:
    """UKGovernmentBEIS/inspect_ai, src/inspect_ai/log/_log.py, EvalSample, in a log written as JSON.

    (`inspect log convert --to json` makes one of a `.eval` file.) Each epoch of a sample is a row of its own.
    """
    if row.get("error"):
        raise LeftOut("error", f"the sample failed: {look_up(row, 'error.message')!r:.80}")
    choice = look_up(row, "output.choices.0")
    reason = choice.get("stop_reason") if isinstance(choice, Mapping) else None
    model = look_up(row, "output.model")
    turns = [_inspect_message(each) for each in listed("messages", row["messages"])]
    generated = [each.get("source") == "generate" for each in row["messages"]]
    if not any(generated):  # logs of old versions do not say it
        generated = [each["role"] == "assistant" for each in turns]
    return sampled_turns("messages", conversation("messages", turns), generated) | {
        "answer": row.get("target"),
        "finish_reason": {"max_tokens": "length", "model_length": "length"}.get(str(reason), reason),
        "prompt_id": str(row["id"]),
        "policy": None if model is ABSENT else model,
    }


def _inspect_message(message: Any) -> dict[str, Any]:
    """A message whose content may be parts, of which reasoning is one kind."""
    found = dict(mapped("messages", message))
    if "role" not in found:
        raise BadField("messages", "a message has no `role`", message)
    if isinstance(parts := found.get("content"), list):
        thoughts = [part for part in parts if isinstance(part, Mapping) and part.get("type") == "reasoning"]
        if any(part.get("redacted") for part in thoughts):
            raise BadField("messages", "its reasoning is redacted, so the response is not what was sampled")
        found["content"] = [part for part in parts if part not in thoughts]
        if thoughts:
            found["reasoning_content"] = "".join(str(part.get("reasoning", "")) for part in thoughts)
    if isinstance(calls := found.get("tool_calls"), list):
        found["tool_calls"] = [
            {"id": look_up(call, "id"), "name": look_up(call, "function"), "arguments": look_up(call, "arguments")}
            for call in calls
        ]
    return found


def _inspect_rewards(row: Row) -> Mapping[str, float]:
    """The scores of a sample by scorer; letters as inspect_ai's own value_to_float reads them."""
    letters = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
    scores = row.get("scores")
    values = {name: look_up(score, "value") for name, score in scores.items()} if isinstance(scores, Mapping) else {}
    return numbers(
        {name: letters.get(value, value) if isinstance(value, str) else value for name, value in values.items()}
    )


def _math_eval(row: Row) -> Fields:
    """QwenLM/Qwen2.5-Math, evaluation/math_eval.py (and microsoft/ToRA, src/infer): one JSON line a problem.

    `code` are the responses, `score` says which are right. The prompt that the model saw is not in the log.
    """
    _refuse_executed(row["code"])
    return {"prompt": row["question"], "response": row["code"], "reward": row.get("score"), "answer": row["gt"]}


def _nemo_skills(row: Row) -> Fields:
    """NVIDIA-NeMo/Skills, nemo_skills/inference/generate.py: output*.jsonl, the data set's row with `generation`."""
    _refuse_executed([row["generation"]])
    question = next((row[name] for name in ("problem", "question") if isinstance(row.get(name), str)), None)
    return {
        "prompt": question,
        "response": row["generation"],
        "answer": row["expected_answer"],
        "finish_reason": row.get("finish_reason"),
        "prompt_id": str(row["id"]) if "id" in row else None,
    }


def _nemo_skills_rewards(row: Row) -> Mapping[str, float]:
    return numbers({name: row.get(name) for name in ("symbolic_correct", "is_correct")})


def _refuse_executed(responses: Any) -> None:
    if any(isinstance(text, str) and _EXECUTED in text for text in listed("response", responses)):
        raise BadField(
            "response",
            f"holds output of an interpreter ({_EXECUTED}), which the policy did not write and nothing marks",
        )


FORMATS = (
    Format(
        "lm-eval",
        {"prompt": "arguments", "response": "resps", "reward": "metrics", "answer": "target"},
        has("doc_id", "resps", "arguments"),
        _lm_eval,
        rewards=_lm_eval_rewards,
        averages=True,
        identity=_lm_eval_identity,
    ),
    Format(
        "lighteval",
        {
            "prompt": "model_response.input",
            "response": "model_response.text",
            "reward": "metric",
            "answer": "doc.choices",
        },
        has("doc", "model_response", "metric"),
        _lighteval,
        rewards=_lighteval_rewards,
        averages=True,
    ),
    Format(
        "inspect",
        {"messages": "messages", "reward": "scores", "answer": "target"},
        lambda row: has("epoch", "messages", "output", "target")(row) or has("eval", "samples")(row),
        _inspect,
        split=inside("samples", "eval"),
        rewards=_inspect_rewards,
    ),
    Format(
        "math-eval",
        {"prompt": "question", "response": "code", "reward": "score", "answer": "gt"},
        has("question", "code", "gt", "pred"),
        _math_eval,
        bare=True,
    ),
    Format(
        "nemo-skills",
        {"prompt": "problem", "response": "generation", "reward": "symbolic_correct", "answer": "expected_answer"},
        has("generation", "expected_answer"),
        _nemo_skills,
        rewards=_nemo_skills_rewards,
        bare=True,
    ),
)
