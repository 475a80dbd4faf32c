"""What a format is, and what formats have in common: paths into a row, token sequences with a mask, messages."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.logged.raw import BadField, LeftOut

Row = Mapping[str, Any]
Fields = dict[str, Any]
"""Our field -> its value in one row. Beside the fields that `--map` knows: `components` (numbers of this response),
`version` (of the behaviour policy) and `tools` (that the chat template was told of)."""


def one(row: Row) -> Iterator[Row]:
    """A row that is one trajectory, or several responses to one prompt."""
    yield row


def no_rewards(row: Row) -> Mapping[str, float]:
    return {}


def no_identity(row: Row) -> str | None:
    return None


@dataclass(frozen=True)
class Format:
    """How rows of one system's logs become our fields. The docstring of `adapt` says where that system writes them."""

    name: str
    fields: Mapping[str, str]
    """Our field -> theirs, for people."""
    fits: Callable[[Row], bool]
    """Whether a row has this format. At most one format says so of any row."""
    adapt: Callable[[Row], Fields]
    split: Callable[[Row], Iterable[Row | BadField]] = one
    """The trajectories of a line, each a row for `adapt`, or what is wrong with it."""
    rewards: Callable[[Row], Mapping[str, float]] = no_rewards
    """Numbers any of which may be the reward. Where a row has several, somebody has to name those that count."""
    identity: Callable[[Row], str | None] = no_identity
    """Rows with the same one hold the same response: it is stored once."""
    averages: bool = False
    """Its other numbers are averages over the responses of a row: none of them is a response's reward."""
    stripped: bool = False
    """Its text was decoded without special tokens: a chat prompt is not what the model saw."""
    bare: bool = False
    """Its prompt is a question, not what the model saw."""
    notes: tuple[str, ...] = field(default=())
    """What it never holds, one sentence each, for the end of an import."""


def has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names)


ABSENT: Any = object()


def look_up(row: Any, path: str) -> Any:
    """The value at a dotted path (`extra.reward`, `choices.0.text`, `outputs[].text`), or ABSENT.

    `name[]` goes on with every element of the list there, and gives a list.
    """
    if isinstance(row, Mapping) and path in row:
        return row[path]
    row = row.tolist() if isinstance(row, np.ndarray) else row
    head, _, rest = path.partition(".")
    if head.endswith("[]"):
        listed = look_up(row, head[:-2]) if head != "[]" else row
        if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
            return ABSENT
        found = [look_up(each, rest) if rest else each for each in listed]
        return ABSENT if any(each is ABSENT for each in found) else found
    if isinstance(row, Mapping) and head in row:
        return look_up(row[head], rest) if rest else row[head]
    if isinstance(row, Sequence) and not isinstance(row, str | bytes) and head.isdecimal() and int(head) < len(row):
        return look_up(row[int(head)], rest) if rest else row[int(head)]
    return ABSENT


def number(value: Any) -> float | None:
    """A finite number, true and false as 1 and 0; None for anything else."""
    if not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def numbers(tree: Any, prefix: str = "") -> dict[str, float]:
    """The entries of an object that are numbers, their names behind `prefix`."""
    if not isinstance(tree, Mapping):
        return {}
    return {f"{prefix}{name}": found for name, value in tree.items() if (found := number(value)) is not None}


def listed(name: str, value: Any) -> list[Any]:
    """`value` as a list. Raises BadField for anything that is none."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if not isinstance(value, list):
        raise BadField(name, f"must be a list, not {type(value).__name__}", value)
    return value


def numeric(name: str, value: Any) -> Any:
    """A list or an array of numbers as it is. Raises BadField for anything else."""
    return value if isinstance(value, np.ndarray) else listed(name, value)


def mapped(name: str, value: Any) -> Mapping[str, Any]:
    """`value` as an object. Raises BadField for anything that is none."""
    if not isinstance(value, Mapping):
        raise BadField(name, f"must be an object, not {type(value).__name__}", value)
    return value


def inside(name: str, *beside: str) -> Callable[[Row], Iterator[Row | BadField]]:
    """The objects of the list `name` where a row has it (with the fields `beside` it), else the row, which is one."""
    holds = has(name, *beside)

    def split(row: Row) -> Iterator[Row | BadField]:
        for each in listed(name, row[name]) if holds(row) else [row]:
            yield each if isinstance(each, Mapping) else BadField(name, "holds something else than objects")

    return split


def sampled_turns(name: str, said: list[dict[str, Any]], sampled: Sequence[bool]) -> Fields:
    """Prompt and response out of messages, of which `sampled` says whether the policy wrote them.

    What stands before its first message is given, whoever wrote it. Raises BadField for a message of the assistant
    that somebody else wrote after that, and LeftOut where the policy wrote none.
    """
    if True not in sampled:
        raise LeftOut(name, "no message was sampled")
    first, last = sampled.index(True), len(sampled) - sampled[::-1].index(True)
    given = (each for each, by_policy in zip(said[first:], sampled[first:], strict=True) if not by_policy)
    if any(message["role"] == "assistant" for message in given):
        raise BadField(name, "an assistant message after the first sampled one was given, not sampled")
    return {"prompt": said[:first], "response": said[first:last]}


def given(value: Any) -> Any:
    """`value`, None for an empty list."""
    return None if isinstance(value, list | np.ndarray) and not len(value) else value


def token_ids(name: str, value: Any) -> npt.NDArray[np.int32]:
    """`value` as token ids. Raises BadField for what is no list of whole numbers that may be ids."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "iu":
        raise BadField(name, f"holds {value.dtype} where token ids are whole numbers", value[:8].tolist())
    if not isinstance(value, list | np.ndarray):
        raise BadField(name, f"must be a list of token ids, not {type(value).__name__}", value)
    if isinstance(value, list) and set(map(type, value)) - {int}:
        wrong = next(each for each in value if type(each) is not int)
        raise BadField(name, f"holds {type(wrong).__name__} where token ids are whole numbers", wrong)
    if isinstance(value, np.ndarray) and value.dtype == np.int64:
        fits = not len(value) or int(value.view(np.uint64).max()) < 2**31  # negative ones are large there
    else:
        fits = False
    if len(value) and not fits:
        least, most = (value.min(), value.max()) if isinstance(value, np.ndarray) else (min(value), max(value))
        if not (least >= 0 and most < 2**31):
            raise BadField(name, "holds a number that is no token id", int(least if least < 0 else most))
    return np.asarray(value, dtype=np.int32)


def marks(name: str, value: Any, off: int = 0) -> npt.NDArray[np.bool_]:
    """Which elements of a list are not `off`. Raises BadField for what is no list of numbers, true and false."""
    if isinstance(value, np.ndarray):
        return value != off
    if set(map(type, listed(name, value))) - {int, float, bool, type(None)}:
        raise BadField(name, "must be a list of numbers, or of true and false", value)
    return np.fromiter((each != off and each is not None for each in listed(name, value)), np.bool_)


def sequence(tokens: Any, mask: Any, logprobs: Any = None, name: str = "token_ids") -> Fields:
    """Prompt, response, mask and log-probs of a whole sequence whose `mask` marks what the policy wrote.

    `logprobs` has one value a token, or one for each token of the policy. What comes after the policy's last token,
    such as padding, belongs to nobody and is cut off. Raises BadField where lengths disagree or nothing is marked.
    """
    ids, written = token_ids(name, tokens), marks("response_mask", mask)
    if len(ids) != len(written):
        raise BadField("response_mask", f"{len(written)} values for {len(ids)} tokens")
    if not written.any():
        raise BadField("response_mask", "marks no token as the policy's: there is nothing to learn from")
    first, last = int(written.argmax()), len(written) - int(written[::-1].argmax())
    if first == 0:
        raise BadField("prompt_token_ids", "empty: the policy wrote the first token, without a state to start from")
    found: Fields = {"prompt_token_ids": ids[:first], "response_token_ids": ids[first:last]}
    if not written[first:last].all():
        found["response_mask"] = written[first:last]
    if given(logprobs) is not None:
        found["behavior_logprobs"] = _aligned(logprobs, written)[first:last]
    return found


def _aligned(logprobs: Any, written: npt.NDArray[np.bool_]) -> Any:
    """One value for each token, 0 where the policy did not write it: what was not sampled has no log-prob."""
    values = logprobs if isinstance(logprobs, np.ndarray) else listed("behavior_logprobs", logprobs)
    whole, sampled = len(values) == len(written), int(written.sum())
    if not whole and len(values) != sampled:
        raise BadField(
            "behavior_logprobs", f"{len(values)} values for {len(written)} tokens, {sampled} of them the policy's"
        )
    if isinstance(values, np.ndarray):
        found = np.zeros(len(written), np.float64)
        found[written] = values[written] if whole else values
        return found
    left = iter(values)
    if whole:
        return [value if mark else 0.0 for value, mark in zip(values, written, strict=True)]
    return [next(left) if mark else 0.0 for mark in written]


def mean_over(values: Any, written: npt.NDArray[np.bool_]) -> float | None:
    """The mean of the finite numbers where `written`; None for what is no list of that length, or has none."""
    if not isinstance(values, list | np.ndarray) or len(values) != len(written):
        return None
    plain = values[written].tolist() if isinstance(values, np.ndarray) else values
    kept = plain if isinstance(values, np.ndarray) else [v for v, mark in zip(plain, written, strict=True) if mark]
    found = [each for value in kept if (each := number(value)) is not None]
    return sum(found) / len(found) if found else None


def conversation(name: str, turns: Any) -> list[dict[str, Any]]:
    """Messages in OpenAI's form from those of several systems: flat tool calls, `reasoning`, ShareGPT's names."""
    found: list[dict[str, Any]] = []
    for turn in listed(name, turns):
        message = dict(mapped(name, turn))
        if "role" not in message and isinstance(message.get("from"), str):
            message = {"role": message.pop("from"), "content": message.pop("value", None)}
        role = _ROLES.get(str(message.get("role")).lower())
        if role is None:
            raise BadField(name, f"a message of nobody that is known: {message.get('role')!r:.80}", turn)
        message["role"] = role
        if isinstance(message.get("tool_calls"), list):
            message["tool_calls"] = [_tool_call(name, call) for call in message["tool_calls"]]
        if isinstance(message.get("reasoning"), str) and "reasoning_content" not in message:
            message["reasoning_content"] = message.pop("reasoning")
        kept = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content")
        found.append({key: value for key, value in message.items() if key in kept and value not in (None, [])})
    return found


_ROLES = {
    **{each: each for each in ("system", "user", "assistant", "tool", "developer")},
    **{"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"},
    **{"observation": "tool", "function": "tool", "ipython": "tool"},
}


def _tool_call(name: str, call: Any) -> dict[str, Any]:
    call = mapped(name, call)
    inner = mapped(name, call.get("function", call))
    named = {"name": inner.get("name"), "arguments": inner.get("arguments")}
    return {"type": "function", "id": call.get("id"), "function": named}


def tools(name: str, given: Any) -> list[dict[str, Any]] | None:
    """Tool definitions in OpenAI's nested form, from that or from flat ones; None where there are none."""
    if not given:
        return None
    flat = [mapped(name, each) for each in listed(name, given)]
    return [dict(each) if "function" in each else {"type": "function", "function": dict(each)} for each in flat]
