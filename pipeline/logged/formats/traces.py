"""Traces of environments: verifiers, and prime-rl that trains on them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.logged.formats.base import (
    ABSENT,
    Fields,
    Format,
    Row,
    conversation,
    given,
    has,
    listed,
    look_up,
    mapped,
    marks,
    number,
    numbers,
    numeric,
    sampled_turns,
    sequence,
    token_ids,
    tools,
)
from pipeline.logged.formats.rollout_text import versioned
from pipeline.logged.formats.rollout_tokens import joined, joined_turns
from pipeline.logged.raw import BadField, LeftOut

_MOST_STEPS = 2**20
"""Messages over all branches of a trace, which share the messages before they part."""
_LIMITS = ("max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens", "context_length")


def _verifiers(row: Row) -> Fields:
    """PrimeIntellect-ai/verifiers, verifiers/v1/episode.py (Episode.to_record), trace.py, graph.py: traces.jsonl.

    prime-rl writes the same (src/prime_rl/monitors/file.py). One row a branch of a trace: a path from a root of its
    messages to a leaf. Nodes carry the tokens that they add; log-probs cover the tokens that were sampled.
    """
    trace, path, episode = row["trace"], row["path"], row["episode"]
    nodes = [mapped("nodes", trace["nodes"][place]) for place in path]
    found: Fields = {**_rewards(trace), "tools": tools("tools", trace.get("tools"))}
    span = look_up(episode, "run.work.policy")
    if isinstance(span, Mapping):
        found = versioned(found, [span.get("start"), span.get("end")])
    task = trace.get("task") or episode.get("task")
    last = next((row["calls"][place] for place in reversed(path) if place in row["calls"]), {})
    model = next(
        (each for each in (look_up(trace, "agent.config.model"), last.get("model")) if isinstance(each, str)), None
    )
    told = last.get("finish_reason", nodes[-1].get("finish_reason"))  # older versions have it in the node
    cut = told == "length" or trace.get("stop_condition") in _LIMITS
    group = look_up(episode, "group.id")
    key = look_up(task, "key")
    answer = look_up(task, "data.answer")
    env = look_up(episode, "env.id")
    found |= {
        "policy": model,
        "finish_reason": "length" if cut else "stop" if trace.get("is_completed") else None,
        "prompt_id": next((str(each) for each in (group, key) if isinstance(each, str | int)), None),
        "answer": None if answer is ABSENT else answer,
        "extra": {"env": env} if isinstance(env, str) and env else {},
    }
    if all(given(node.get("token_ids")) is not None for node in nodes if node.get("sampled")):
        return found | _tokens(nodes)
    return found | _messages(nodes)


def _rewards(trace: Row) -> Fields:
    """The weighted sum of the rewards, as Trace.reward; each score and metric is kept beside it."""
    total: float | None = None
    parts = numbers(trace.get("metrics"))
    for name, reward in mapped("rewards", trace.get("rewards") or {}).items():
        if reward is None:
            continue
        score = number(mapped("rewards", reward).get("score"))
        weight = number(reward.get("weight", 1.0))
        if score is None or weight is None:
            raise BadField("reward", f"the score or weight of {name!r:.40} is no finite number", reward)
        total = (total or 0.0) + score * weight
        parts[str(name)] = score
    return {"reward": total, "components": parts}


def _tokens(nodes: list[Mapping[str, Any]]) -> Fields:
    tokens: list[Any] = []
    written: list[Any] = []
    logprobs: list[Any] = []
    complete = True
    for node in nodes:
        ids, mask = token_ids("token_ids", _list(node, "token_ids")), marks("mask", _list(node, "mask"))
        if len(ids) != len(mask):
            raise BadField("response_mask", f"a message has {len(ids)} tokens and {len(mask)} marks")
        said = numeric("logprobs", _list(node, "logprobs"))
        complete = complete and len(said) == int(mask.sum())
        tokens.append(ids)
        written.append(mask)
        logprobs.append(said)
    said = joined([part for part in logprobs if len(part)]) if complete else None
    return sequence(np.concatenate(tokens), np.concatenate(written), said)


def _list(node: Mapping[str, Any], name: str) -> Any:
    return [] if node.get(name) is None else node[name]


def _messages(nodes: list[Mapping[str, Any]]) -> Fields:
    said = conversation("nodes", [node.get("message") for node in nodes])
    return sampled_turns("nodes", said, [bool(node.get("sampled")) for node in nodes])


def _branches(row: Row) -> Iterator[Row | BadField]:
    """The branches of every trace whose agent is trained, or why a trace is none."""
    traces = listed("traces", row["traces"]) if "traces" in row else [row]
    if not traces:
        yield LeftOut("traces", f"the episode has no trace: {_failure(row)}")
    for trace in traces:
        if not isinstance(trace, Mapping) or not isinstance(trace.get("nodes"), list):
            yield BadField("traces", "a trace has no `nodes`")
        elif look_up(trace, "agent.trainable") is False:
            yield LeftOut("traces", "the trace of an agent that is not trained, such as a judge")
        elif trace.get("errors") and not trace.get("ok"):
            yield LeftOut("traces", f"the trace failed: {_failure(trace)}")
        else:
            yield from _paths(row, trace)


def _failure(row: Row) -> str:
    return str(look_up(row, "errors.0.type"))[:80] if row.get("errors") else "no error is told"


def _paths(episode: Row, trace: Row) -> Iterator[Row | BadField]:
    nodes = trace["nodes"]
    parents = [node.get("parent") if isinstance(node, Mapping) else None for node in nodes]
    for place, parent in enumerate(parents):  # a parent stands before its child, or paths might never end
        if parent is not None and not (isinstance(parent, int) and 0 <= parent < place):
            yield BadField("nodes", f"message {place} has the parent {parent!r:.40}, which does not stand before it")
            return
    inner = {parent for parent in parents if parent is not None}
    told = [call for call in listed("calls", trace.get("calls") or []) if isinstance(call, Mapping)]
    calls = {call["node"]: call for call in told if isinstance(call.get("node"), int)}
    steps = 0
    for leaf in (place for place in range(len(nodes)) if place not in inner):
        path: list[int] = []
        place: int | None = leaf
        while place is not None:
            path.append(place)
            place = parents[place]
        steps += len(path)
        if steps > _MOST_STEPS:
            yield BadField("nodes", f"its branches have more than {_MOST_STEPS:,} messages")
            return
        yield {"episode": episode, "trace": trace, "path": path[::-1], "calls": calls}


def _results(row: Row) -> Fields:
    """PrimeIntellect-ai/verifiers, verifiers/legacy/utils/save_utils.py, state_to_output: results.jsonl.

    Prompt and completion are messages. With `trajectory` among the saved columns each turn may carry its tokens.
    """
    if row.get("error"):
        raise LeftOut("error", f"the rollout failed: {row['error']!r:.80}")
    parts = numbers(row.get("metrics"))
    found: Fields = {
        "reward": row.get("reward"),
        "answer": row.get("answer"),
        "components": parts,
        "prompt_id": str(row["example_id"]),
        "finish_reason": "length" if row.get("is_truncated") else "stop" if row.get("is_completed") else None,
        "tools": tools("tool_defs", row.get("tool_defs")),
    }
    steps = row.get("trajectory")
    if (
        isinstance(steps, list)
        and steps
        and all(look_up(step, "tokens.completion_ids") is not ABSENT for step in steps)
    ):
        turns: list[Row] = [
            {
                "prompt_token_ids": step["tokens"].get("prompt_ids"),
                "generation_token_ids": step["tokens"]["completion_ids"],
                "generation_log_probs": step["tokens"].get("completion_logprobs"),
            }
            for step in steps
        ]
        return found | joined_turns(turns)
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return found | {"prompt": prompt, "response": completion}
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    said = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    return found | {"prompt": conversation("prompt", asked), "response": conversation("completion", said)}


FORMATS = (
    Format(
        "verifiers",
        {"messages": "traces[].nodes[]", "reward": "traces[].rewards", "answer": "task.data.answer"},
        lambda row: "traces" in row or has("nodes", "rewards")(row),
        _verifiers,
        split=_branches,
    ),
    Format(
        "verifiers-results",
        {"prompt": "prompt", "response": "completion", "reward": "reward", "answer": "answer"},
        has("example_id", "prompt", "completion", "reward"),
        _results,
    ),
)
