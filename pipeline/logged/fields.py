"""From the values of one logged row to trajectories with checked types, or to what is wrong with a field."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.logged.formats.base import Fields, Row, token_ids
from pipeline.logged.raw import BadField, LeftOut, RawRow
from pipeline.logged.settings import ROW_OVERHEAD
from pipeline.logged.shapes import MISSHAPEN, Shape

_T = TypeVar("_T")
Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]]
Tokens = npt.NDArray[np.int32]
_FINISH = {
    **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence", "completed", "false"), "stop"),
    **dict.fromkeys(("max_tokens", "max_output_tokens", "model_length", "truncated", "true"), "length"),
}
"""Other names for the reasons that samplers have. `true` and `false` are cells of a column `is_truncated`."""
_MAX_SHOWN = 200
_LARGEST_REWARD = float(np.finfo(np.float32).max)


@dataclass
class Candidate:
    """One logged response with plain types, before tokenization. Absent fields are None."""

    file: str
    row: int
    sample: int
    prompt: str | Messages | None
    response: str | Messages | None
    prompt_ids: Tokens | None
    response_ids: Tokens | None
    mask: npt.NDArray[np.bool_] | None
    logprobs: npt.NDArray[np.float32] | None
    reward: float | None
    answer: str | list[int]
    finish_reason: str | None
    prompt_id: str | None
    policy: str | None
    tokenizer: str | None
    verifier: str
    components: dict[str, float] = field(default_factory=dict[str, float])
    extra: str = "{}"
    """As JSON."""
    version: str | None = None
    """Of the policy, where the log tells it: a step, or a number of its weights."""
    tools: Tools | None = None
    """Definitions of tools that the chat template was told of."""


@dataclass(frozen=True)
class Bad:
    """A row for the quarantine table."""

    file: str
    row: int
    field: str
    reason: str
    value: str | None = None


@dataclass(frozen=True)
class Responses:
    """The fields of one row, by response."""

    raw: RawRow
    each: Sequence[Fields | BadField]
    """The fields of each response, or what is wrong with it."""
    expanded: int
    """About the bytes that the row becomes in the tables: what holds for all is stored with each response."""


def responses_of(raw: RawRow, shape: Shape, most: int) -> Responses | Bad:
    """What `shape` finds in a row, or what is wrong with the row as a whole.

    Responses that take more than `most` bytes with what they share are not spelled out.
    """
    if raw.data is None:
        return Bad(raw.file, raw.row, "", raw.problem or "unreadable")
    found: list[Fields | BadField] = []
    size, count = raw.size, 0
    parts = iter(shape.split(raw.data))  # a generator: what is wrong with the row shows when its parts are taken
    while (part := _checked(lambda: next(parts, None), shape)) is not None:
        values = part if isinstance(part, BadField) else _checked(lambda part=part: _values(raw, part, shape), shape)
        count += 1
        if isinstance(values, BadField):
            found.append(values)
            size += ROW_OVERHEAD
        else:
            size += ROW_OVERHEAD + (_rough_size(list(values.values())) if found else 0)
            spread = _checked(lambda values=values: _spread(values), shape)
            if isinstance(spread, BadField):
                found.append(spread)
            else:
                many, names = spread
                count += many - 1
                shared = {name: value for name, value in values.items() if name not in names}
                size += (many - 1) * (ROW_OVERHEAD + _rough_size(list(shared.values()))) if many > 1 else 0
                if size <= most:
                    found += [shared | {name: values[name][place] for name in names} for place in range(many)]
        if size > most:
            reason = (
                f"its {count:,} responses with what they share take more than {most / 2**20:g} MiB (see --max-row-mb)"
            )
            return Bad(raw.file, raw.row, "response", reason)
    if not found:
        found.append(LeftOut("", "holds no response"))
    return Responses(raw, found, size)


def _checked(read: Callable[[], _T], shape: Shape) -> _T | BadField:
    """What `read` gives, or why the row has not that shape."""
    try:
        return read()
    except BadField as bad:
        return bad
    except MISSHAPEN as error:
        return BadField("", f"does not have the shape {shape.name}: {error!r}"[:_MAX_SHOWN])


def _values(raw: RawRow, part: Row, shape: Shape) -> Fields:
    values = {name: _plain(name, value) for name, value in shape.adapt(part).items()}
    return {name: _from_cell(name, value) for name, value in values.items()} if raw.text_cells else values


def candidates(row: Responses, wants_reward: bool) -> list[Candidate | Bad]:
    """The responses of a row in order, each a candidate or what is wrong with it.

    `wants_reward`: the log has rewards, so that a row without one is bad.
    """
    found: list[Candidate | Bad] = []
    for sample, values in enumerate(row.each):
        try:
            if isinstance(values, BadField):
                raise values
            found.append(_candidate(row.raw, sample, values, wants_reward))
        except BadField as bad:
            found.append(Bad(row.raw.file, row.raw.row, bad.field, bad.reason, bad.value))
        except RecursionError:
            found.append(Bad(row.raw.file, row.raw.row, "", "values are nested too deeply"))
    return found


_NUMBERS = ("prompt_token_ids", "response_token_ids", "response_mask", "behavior_logprobs")
_SPREAD = ("response", *_NUMBERS[1:], "reward", "finish_reason", "policy")


def _plain(name: str, value: Any) -> Any:
    """Arrays of numbers, as columnar files hold them, stay arrays where numbers are wanted."""
    return value.tolist() if isinstance(value, np.ndarray) and name not in _NUMBERS else value


def _rough_size(value: Any) -> int:
    """Bytes of a value in the tables; a character counts as the four bytes of a token."""
    size, left = 0, [value]
    while left:
        each = left.pop()
        if isinstance(each, str | np.ndarray):
            size += 4 * len(each)
        elif isinstance(each, Mapping):
            left += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple):
            left += each
        size += 8
    return size


def _from_cell(name: str, value: Any) -> Any:
    """A CSV cell as the type that its field needs."""
    if not isinstance(value, str):
        return value
    if value == "":
        return None
    lists = ("prompt_token_ids", "response_token_ids", "response_mask", "behavior_logprobs", "messages", "extra")
    if name in lists or (name in ("prompt", "response") and value.startswith('[{"role"')):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadField(name, f"the cell does not hold JSON: {error}", value) from error
    if name == "reward":
        words = {"true": 1.0, "false": 0.0}
        try:
            return words[value.lower()] if value.lower() in words else float(value)
        except ValueError as error:
            raise BadField(name, "not a number", value) from error
    return value


def _spread(values: Mapping[str, Any]) -> tuple[int, frozenset[str]]:
    """(responses of the row, fields that hold one value for each of them)."""
    many = _length_of_many(values.get("response"), values.get("response_token_ids"))
    if many is None:
        return 1, frozenset()
    spread = frozenset(name for name in _SPREAD if isinstance(values.get(name), list | np.ndarray))
    for name in sorted(spread):
        if len(values[name]) != many:
            raise BadField(name, f"{len(values[name])} values for {many} responses")
    return many, spread


def _length_of_many(response: Any, ids: Any) -> int | None:
    if isinstance(response, list) and (not response or not isinstance(response[0], Mapping)):
        if not response:
            raise BadField("response", "an empty list of responses")
        return len(response)
    if isinstance(ids, list) and ids and isinstance(ids[0], list | np.ndarray):
        return len(ids)
    return None


def _candidate(raw: RawRow, sample: int, values: dict[str, Any], wants_reward: bool) -> Candidate:
    prompt, response = values.get("prompt"), values.get("response")
    if values.get("messages") is not None and response is None and values.get("response_token_ids") is None:
        response, prompt = _messages("messages", values["messages"]), None
    reward = _reward(values.get("reward"))
    if wants_reward and reward is None:
        raise BadField("reward", "missing, while other rows have one")
    finish = _text_or_none("finish_reason", values.get("finish_reason"))
    extra = values.get("extra")
    if extra is not None and not isinstance(extra, dict):
        raise BadField("extra", f"must be an object, not {type(extra).__name__}", extra)
    return Candidate(
        file=raw.file,
        row=raw.row,
        sample=sample,
        prompt=_text_or_messages("prompt", prompt),
        response=_text_or_messages("response", response),
        prompt_ids=_ids("prompt_token_ids", values.get("prompt_token_ids")),
        response_ids=_ids("response_token_ids", values.get("response_token_ids")),
        mask=_mask(values.get("response_mask")),
        logprobs=_floats("behavior_logprobs", values.get("behavior_logprobs")),
        reward=reward,
        answer=_answer(values.get("answer")),
        finish_reason=_FINISH.get(finish, finish) if finish else None,
        prompt_id=_text_or_none("prompt_id", values.get("prompt_id")),
        policy=_text_or_none("policy", values.get("policy")),
        tokenizer=_text_or_none("tokenizer", values.get("tokenizer")),
        verifier=_text_or_none("verifier", values.get("verifier")) or "",
        components=_components(values.get("components") or {}),
        extra=_encodable("extra", json.dumps(extra, sort_keys=True, default=_as_json)) if extra else "{}",
        version=_text_or_none("policy", values.get("version")),
        tools=_tools(values.get("tools")),
    )


def _components(values: Mapping[str, float]) -> dict[str, float]:
    return {_encodable("reward", str(k)): found for k, v in values.items() if math.isfinite(found := _float(v))}


def _tools(value: Any) -> Tools | None:
    if not value:
        return None
    if not isinstance(value, list) or any(not isinstance(each, dict) for each in value):
        raise BadField("tools", "must be a list of tool definitions", value)
    _encodable("tools", json.dumps(value, ensure_ascii=False, default=str))
    return value


def _as_json(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def _encodable(name: str, text: str) -> str:
    """JSON can spell half of a surrogate pair, which no file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadField(name, f"not Unicode text: a lone surrogate at character {error.start}") from error
    return text


def _text_or_none(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool | list | dict):
        raise BadField(name, f"must be text, not {type(value).__name__}", value)
    return _encodable(name, str(value))


def _text_or_messages(name: str, value: Any) -> str | Messages | None:
    if value is None or isinstance(value, str):
        return value if value is None else _encodable(name, value)
    if isinstance(value, list):
        return _messages(name, value)
    raise BadField(name, f"must be text or a list of messages, not {type(value).__name__}", value)


def _messages(name: str, value: Any) -> Messages:
    if not isinstance(value, list) or not value:
        raise BadField(name, "must be a list of messages with `role` and `content`", value)
    found: Messages = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            hint = (
                f" ({', '.join(map(str, message))[:80]}: --map {name}=FIELD[].NAME?)"
                if isinstance(message, Mapping)
                else ""
            )
            raise BadField(name, f"message {number} has no `role`{hint}", message)
        content = message.get("content")
        if isinstance(content, list):  # OpenAI's list of parts
            if any(not isinstance(part, Mapping) or not isinstance(part.get("text"), str) for part in content):
                raise BadField(name, f"message {number} holds parts that are not text", content)
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str | None):
            raise BadField(name, f"message {number}: `content` must be text, not {type(content).__name__}", content)
        rest = {key: each for key, each in message.items() if each is not None}
        if isinstance(calls := rest.get("tool_calls"), list):
            rest["tool_calls"] = [_with_object(call) for call in calls]
        _encodable(name, json.dumps(rest, ensure_ascii=False, default=str))
        found.append({**rest, "content": content or ""})
    return found


def _with_object(call: Any) -> Any:
    """A tool call whose arguments are an object: templates would write text as a JSON string."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        told = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": told}} if isinstance(told, dict) else call


def _ids(name: str, value: Any) -> Tokens | None:
    return None if value is None else token_ids(name, value)


def _mask(value: Any) -> npt.NDArray[np.bool_] | None:
    if value is None:
        return None
    fits = isinstance(value, list) and all(each in (0, 1) for each in value)
    if not (fits or (isinstance(value, np.ndarray) and bool(((value == 0) | (value == 1)).all()))):
        raise BadField("response_mask", "must be a list of true and false (or 1 and 0)", value)
    return np.asarray(value, dtype=np.bool_)


def _floats(name: str, value: Any) -> npt.NDArray[np.float32] | None:
    if value is None:
        return None
    numbers = isinstance(value, np.ndarray) or (
        isinstance(value, list) and not set(map(type, value)) - {int, float, bool}
    )
    if not numbers:
        raise BadField(name, "must be a list of numbers", value)
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
            return np.asarray(value, dtype=np.float32)
    except OverflowError as error:  # a whole number of hundreds of digits
        raise BadField(name, "holds a number that is not finite", max(value, key=abs)) from error


def _float(number: float) -> float:
    """A number of a log as a float; whole numbers of hundreds of digits are infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _reward(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise BadField("reward", f"must be a number, not {type(value).__name__}", value)
    number = _float(value)
    if not math.isfinite(number):
        raise BadField("reward", "not a finite number", value)
    if abs(number) > _LARGEST_REWARD:
        raise BadField("reward", f"beyond {_LARGEST_REWARD:.3g}: training computes with numbers of 32 bits", value)
    return number


def _answer(value: Any) -> str | list[int]:
    if isinstance(value, list) and value and all(type(each) is int for each in value):
        return value  # token ids, as open-instruct has them
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return _encodable("answer", json.dumps(value, ensure_ascii=False, default=_as_json))
    return _encodable("answer", str(value))
