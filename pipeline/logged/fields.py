"""From the values of one logged row to trajectories with checked types, or to what is wrong with a field."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.logged.raw import RawRow
from pipeline.logged.settings import ROW_OVERHEAD
from pipeline.logged.shapes import Shape

Messages = list[dict[str, Any]]
Tokens = npt.NDArray[np.int32]
_FINISH = {"eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}
_MAX_SHOWN = 200


class BadField(Exception):
    """A value that no trajectory can be made of."""

    def __init__(self, field: str, reason: str, value: object = None) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason
        self.value = None if value is None else repr(value)[:_MAX_SHOWN].encode("utf-8", "backslashreplace").decode()


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
    values: Mapping[str, Any]
    many: int
    """Responses of the row."""
    spread: frozenset[str]
    """Fields that hold one value for each response; the others hold for all."""
    expanded: int
    """About the bytes that the row becomes in the tables: what holds for all is stored with each response."""


def responses_of(raw: RawRow, shape: Shape) -> Responses | Bad:
    """What `shape` finds in a row, or what is wrong with the row as a whole."""
    if raw.data is None:
        return Bad(raw.file, raw.row, "", raw.problem or "unreadable")
    try:
        values = {name: _plain(name, value) for name, value in shape.adapt(raw.data).items()}
        if raw.text_cells:
            values = {name: _from_cell(name, value) for name, value in values.items()}
        many, spread = _spread(values)
        shared = _rough_size([value for name, value in values.items() if name not in spread]) if many > 1 else 0
    except BadField as bad:
        return Bad(raw.file, raw.row, bad.field, bad.reason, bad.value)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        return Bad(raw.file, raw.row, "", f"does not have the shape {shape.name}: {error!r}"[:_MAX_SHOWN])
    expanded = raw.size + ROW_OVERHEAD + (many - 1) * (ROW_OVERHEAD + shared)
    return Responses(raw, values, many, spread, expanded)


def candidates(row: Responses, wants_reward: bool) -> list[Candidate | Bad]:
    """The responses of a row in order, each a candidate or what is wrong with it.

    `wants_reward`: the log has rewards, so that a row without one is bad.
    """
    found: list[Candidate | Bad] = []
    shared = {name: value for name, value in row.values.items() if name not in row.spread}
    for sample in range(row.many):
        one = shared | {name: row.values[name][sample] for name in row.spread}
        try:
            found.append(_candidate(row.raw, sample, one, wants_reward))
        except BadField as bad:
            found.append(Bad(row.raw.file, row.raw.row, bad.field, bad.reason, bad.value))
        except RecursionError:
            found.append(Bad(row.raw.file, row.raw.row, "", "values are nested too deeply"))
    return found


_NUMBERS = ("prompt_token_ids", "response_token_ids", "response_mask", "behavior_logprobs")
_SPREAD = ("response", *_NUMBERS[1:], "reward", "finish_reason")


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
    spread = frozenset(name for name in _SPREAD if isinstance(values.get(name), list))
    for name in sorted(spread):
        if len(values[name]) != many:
            raise BadField(name, f"{len(values[name])} values for {many} responses")
    return many, spread


def _length_of_many(response: Any, ids: Any) -> int | None:
    if isinstance(response, list) and (not response or not isinstance(response[0], Mapping)):
        if not response:
            raise BadField("response", "an empty list of responses")
        return len(response)
    if isinstance(ids, list) and ids and isinstance(ids[0], list):
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
        components={k: number for k, v in values.get("components", {}).items() if math.isfinite(number := _float(v))},
        extra=_encodable("extra", json.dumps(extra or {}, sort_keys=True, default=str)),
    )


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
            raise BadField(name, f"message {number} has no `role`", message)
        content = message.get("content")
        if isinstance(content, list):  # OpenAI's list of parts
            if any(not isinstance(part, Mapping) or not isinstance(part.get("text"), str) for part in content):
                raise BadField(name, f"message {number} holds parts that are not text", content)
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str | None):
            raise BadField(name, f"message {number}: `content` must be text, not {type(content).__name__}", content)
        rest = {key: each for key, each in message.items() if each is not None}
        _encodable(name, json.dumps(rest, ensure_ascii=False, default=str))
        found.append({**rest, "content": content or ""})
    return found


def _ids(name: str, value: Any) -> Tokens | None:
    if value is None:
        return None
    if isinstance(value, np.ndarray) and not np.issubdtype(value.dtype, np.integer):
        raise BadField(name, f"holds {value.dtype} where token ids are whole numbers", value[:8].tolist())
    if not isinstance(value, list | np.ndarray):
        raise BadField(name, f"must be a list of token ids, not {type(value).__name__}", value)
    if isinstance(value, list) and any(type(each) is not int for each in value):
        wrong = next(each for each in value if type(each) is not int)
        raise BadField(name, f"holds {type(wrong).__name__} where token ids are whole numbers", wrong)
    if len(value):
        least, most = (value.min(), value.max()) if isinstance(value, np.ndarray) else (min(value), max(value))
        if not (least >= 0 and most < 2**31):
            raise BadField(name, "holds a number that is no token id", int(least if least < 0 else most))
    return np.asarray(value, dtype=np.int32)


def _mask(value: Any) -> npt.NDArray[np.bool_] | None:
    if value is None:
        return None
    fits = isinstance(value, list) and all(each in (0, 1) for each in value)
    if not (fits or (isinstance(value, np.ndarray) and bool(np.isin(value, (0, 1)).all()))):
        raise BadField("response_mask", "must be a list of true and false (or 1 and 0)", value)
    return np.asarray(value, dtype=np.bool_)


def _floats(name: str, value: Any) -> npt.NDArray[np.float32] | None:
    if value is None:
        return None
    numbers = isinstance(value, np.ndarray) or (
        isinstance(value, list) and all(isinstance(each, int | float) for each in value)
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
    return number


def _answer(value: Any) -> str | list[int]:
    if isinstance(value, list) and value and all(type(each) is int for each in value):
        return value  # token ids, as open-instruct has them
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return _encodable("answer", json.dumps(value, ensure_ascii=False, default=str))
    return _encodable("answer", str(value))
