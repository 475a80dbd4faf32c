"""Which known format a log has, or which of its fields are ours: by name, by usual names, or by a user's map."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.errors import TbrmError, did_you_mean
from pipeline.logged.formats import FORMATS
from pipeline.logged.formats.base import ABSENT, Fields, Format, Row, look_up, no_identity, no_rewards, number, one
from pipeline.logged.formats.rollout_text import columns, turned
from pipeline.logged.raw import BadField, LeftOut
from pipeline.logged.settings import Directions

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
        *("response", "responses", "completion", "completions", "output", "outputs"),
        *("generation", "generations", "model_output"),
    ),
    "messages": ("messages", "conversation", "conversations"),
    "prompt_token_ids": ("prompt_token_ids", "prompt_ids", "prompt_tokens"),
    "response_token_ids": ("response_token_ids", "completion_ids", "response_ids", "response_tokens", "token_ids"),
    "response_mask": ("response_mask", "loss_mask", "completion_mask"),
    "behavior_logprobs": ("behavior_logprobs", "logprobs", "response_logprobs", "old_log_probs", "rollout_log_probs"),
    "reward": ("reward", "rewards", "score", "scores", "is_correct", "correct"),
    "answer": (
        *("answer", "ground_truth", "gold", "gts", "target", "expected_answer", "gt", "solution"),
        "reference_answer",
    ),
    "finish_reason": ("finish_reason", "finish_reasons", "stop_reason", "is_truncated", "truncated"),
    "prompt_id": ("prompt_id", "problem_id", "question_id", "uid"),
    "tools": ("tools",),
}
_QUESTIONS = ("question", "problem", "query", "instruction")
"""Fields of these names hold what was asked, and not the template around it that the model saw."""
_MAX_NAME = 80
MISSHAPEN = (*(KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError),)
"""What reading a row raises that has another shape than its format."""


@dataclass(frozen=True)
class Shape:
    """How rows of a log become our fields. `fields` says which of theirs are read, for people."""

    name: str
    fields: Mapping[str, str]
    adapt: Callable[[Row], Fields]
    split: Callable[[Row], Iterable[Row | BadField]] = one
    identity: Callable[[Row], str | None] = no_identity
    stripped: bool = False
    """Its text was decoded without special tokens."""
    bare: str = ""
    """The field whose questions are the prompts, where the model saw more than that."""
    notes: tuple[str, ...] = field(default=())


def recognize(row: Row, asked: Directions) -> Shape:
    """The shape of a log whose first readable row is `row`.

    Raises TbrmError where no format or more than one fits, and where a field or the reward has to be named.
    """
    unknown = [target for target in asked.mapping if target not in TARGETS]
    if unknown:
        raise TbrmError(f"--map {unknown[0]}=…: the fields to map to are {', '.join(TARGETS)}")
    if asked.rewards and "reward" in asked.mapping:
        raise TbrmError("--map reward=… and --reward both say what the reward is: give one of them")
    if columns(row) is not None:
        return _in_columns(row, asked)
    known = _known(row, asked)
    base = _by_alias(row, asked.mapping) if known is None else _of_format(known)
    first = _first_part(base, row)
    for target, path in asked.mapping.items():
        if look_up(first, path) is ABSENT:
            raise TbrmError(
                f"--map {target}={path}: the first row has no {path!r}; its fields are {', '.join(paths(first))}"
            )
    fields = {**base.fields, **asked.mapping}
    _check_complete(fields, first)
    adapt = _mapped(base.adapt, asked.mapping) if asked.mapping else base.adapt
    if "reward" not in asked.mapping:
        weights = asked.rewards or _one_reward(known, first)
        _check_weights(asked.rewards, known, first)
        adapt = _rewarded(adapt, known, weights)
        fields |= {"reward": formula(weights)} if weights else {}
    if asked.where:
        adapt = _chosen(adapt, asked.where)
    name = f"{base.name} with --map" if asked.mapping else base.name
    bare = "" if "prompt" in asked.mapping else base.bare
    return replace(base, name=name, fields=fields, adapt=adapt, bare=bare)


def _in_columns(row: Row, asked: Directions) -> Shape:
    """A log whose lines hold a column in each field: they are turned, and their rows recognized."""
    first = next(iter(turned(row)))
    if isinstance(first, BadField):
        raise TbrmError(f"the first line holds a column in each field, but field {first.field!r}: {first.reason}")
    inner = recognize(first, asked)

    def split(row: Row) -> Iterator[Row | BadField]:
        for part in turned(row):
            if isinstance(part, BadField):
                yield part
            else:
                yield from inner.split(part)

    return replace(inner, name=f"{inner.name}, a column in each field", split=split)


def _known(row: Row, asked: Directions) -> Format | None:
    """The format that was named or fits. None where none fits, or the map says what prompt and response are."""
    if asked.source:
        found = FORMATS.get(asked.source)
        if found is None:
            raise TbrmError(
                f"--from {asked.source}:{did_you_mean(asked.source, FORMATS)} The formats are {', '.join(FORMATS)}"
            )
        if not found.fits(row):
            needed = ", ".join(f"{ours} = {theirs}" for ours, theirs in found.fields.items())
            raise TbrmError(
                f"--from {asked.source}: the first row does not have its fields ({needed}). It has "
                f"{', '.join(paths(row))}"
            )
        return found
    if _has_prompt(asked.mapping) and _has_response(asked.mapping):
        return None
    fitting = [each for each in FORMATS.values() if each.fits(row)]
    if len(fitting) > 1:
        names = " and ".join(each.name for each in fitting)
        raise TbrmError(f"the first row has the fields of {names}: say which with --from {fitting[0].name}")
    return fitting[0] if fitting else None


def _first_part(shape: Shape, row: Row) -> Row:
    """The first trajectory of a line, to look at; the line itself where it is damaged."""
    try:
        return next((part for part in shape.split(row) if not isinstance(part, BadField)), row)
    except (BadField, *MISSHAPEN):
        return row


def _numbers(known: Format | None, row: Row) -> dict[str, float]:
    """What may be the reward of a row; nothing where it is damaged."""
    try:
        return dict(known.rewards(row)) if known is not None else {}
    except (BadField, *MISSHAPEN):
        return {}


def _of_format(known: Format) -> Shape:
    bare = known.fields["prompt"] if known.bare else ""
    return Shape(known.name, known.fields, known.adapt, known.split, known.identity, known.stripped, bare, known.notes)


def _mapped(adapt: Callable[[Row], Fields], chosen: Mapping[str, str]) -> Callable[[Row], Fields]:
    def adapted(row: Row) -> Fields:
        mapped = {target: found for target, path in chosen.items() if (found := look_up(row, path)) is not ABSENT}
        return {**adapt(row), **mapped}

    return adapted


def _chosen(adapt: Callable[[Row], Fields], where: Mapping[str, str]) -> Callable[[Row], Fields]:
    def adapted(row: Row) -> Fields:
        for path in unwanted(row, where):
            found = look_up(row, path)
            shown = None if found is ABSENT else repr(found)[:_MAX_NAME]
            raise LeftOut(path, f"--where asks for {where[path]!r:.80}", shown)
        return adapt(row)

    return adapted


def unwanted(row: Row, where: Mapping[str, str]) -> list[str]:
    """Paths of --where at which the row has another value."""
    return [path for path, wanted in where.items() if str(look_up(row, path)).lower() != wanted.lower()]


def _check_weights(weights: Mapping[str, float], known: Format | None, first: Row) -> None:
    """Raise TbrmError for a name that the first row has nothing for."""
    given = _numbers(known, first)
    for name in weights:
        if name not in given and look_up(first, name) is ABSENT:
            raise TbrmError(
                f"--reward {name}: the first row has no {name!r}; its fields are "
                f"{', '.join([*(each[:_MAX_NAME] for each in list(given)[:12]), *paths(first)])}"
            )


def _one_reward(known: Format | None, first: Row) -> Mapping[str, float]:
    """The only number of the first row that may be its reward. Raises TbrmError where there are several."""
    found = _numbers(known, first)
    if len(found) > 1:
        raise TbrmError(_which(found))
    return dict.fromkeys(found, 1.0)


def _which(found: Mapping[str, float]) -> str:
    shown = ", ".join(f"{name[:_MAX_NAME]} {value:g}" for name, value in list(found.items())[:12])
    example = ",".join(f"{name[:_MAX_NAME]}=1" for name in list(found)[:2])
    return (
        f"which of these is the reward? A row has {shown}. Name the ones that count, with their weights in the run: "
        f"--reward {example}"
    )


def _rewarded(
    adapt: Callable[[Row], Fields], known: Format | None, weights: Mapping[str, float]
) -> Callable[[Row], Fields]:
    """`adapt` with the weighted sum of the named numbers as the reward; where none was named, of the only one."""
    candidates = known.rewards if known is not None else no_rewards

    def adapted(row: Row) -> Fields:
        found = adapt(row)
        given = candidates(row)
        if not weights:
            if len(given) > 1:
                raise BadField("reward", _which(given))
            return found if not given else _with_reward(found, {name: (1.0, value) for name, value in given.items()})
        inside = ABSENT if known is not None and known.averages else row
        values = {name: (weight, given.get(name, look_up(inside, name))) for name, weight in weights.items()}
        return _with_reward(found, values)

    return adapted


def _with_reward(found: Fields, weighted: Mapping[str, tuple[float, Any]]) -> Fields:
    """As TRL sums: what is missing or no number counts nothing, and where all is missing there is no reward."""
    lists = [value for _, value in weighted.values() if isinstance(value, list)]
    if lists:
        if any(len(value) != len(lists[0]) for value in lists) or len(lists) != len(weighted):
            raise BadField("reward", f"{', '.join(weighted)} do not have as many values as each other")
        sums = [_sum([(weight, value[place]) for weight, value in weighted.values()]) for place in range(len(lists[0]))]
        return {**found, "reward": sums}
    parts = {name: value for name, (_, each) in weighted.items() if (value := number(each)) is not None}
    components = {**found.get("components", {}), **parts}
    return {**found, "reward": _sum(list(weighted.values())), "components": components}


def _sum(weighted: list[tuple[float, Any]]) -> float | None:
    found = [weight * value for weight, each in weighted if (value := number(each)) is not None]
    return sum(found) if found else None


def formula(weights: Mapping[str, float]) -> str:
    """`accuracy + 0.5 * format`."""
    named = [(name[:_MAX_NAME], weight) for name, weight in weights.items()]
    return " + ".join(name if weight == 1 else f"{weight:g} * {name}" for name, weight in named)


def paths(row: Row, limit: int = 40) -> list[str]:
    """Dotted paths of a row's fields, for error messages."""
    found: list[str] = []
    for key, value in row.items():
        inside, mark = (value[0], "[]") if isinstance(value, list) and value else (value, "")
        inner = [f"{key}{mark}.{name}" for name in inside] if isinstance(inside, Mapping) else []
        found += [name[:_MAX_NAME] for name in inner or [str(key)]]
        if len(found) >= limit:
            break
    return found[:limit]


def _has_prompt(fields: Mapping[str, str]) -> bool:
    return bool({"prompt", "messages", "prompt_token_ids"} & fields.keys())


def _has_response(fields: Mapping[str, str]) -> bool:
    return bool({"response", "messages", "response_token_ids"} & fields.keys())


def _check_complete(fields: Mapping[str, str], row: Row) -> None:
    if _has_prompt(fields) and _has_response(fields):
        return
    missing = "prompt" if not _has_prompt(fields) else "response"
    raise TbrmError(
        f"which field is the {missing}? The first row has {', '.join(paths(row))}. "
        f"Say it with --map {missing}=FIELD (dotted paths reach inside, [] into each element of a list)"
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
    padded = "prompt_token_ids" in fields and isinstance(row.get("prompt_mask"), list | np.ndarray)

    def adapt(row: Row) -> Fields:
        found = {target: row.get(name) for target, name in fields.items()}
        if found.get("finish_reason") is None:  # some logs tell it only where a response was cut
            told = (row[name] for name in ALIASES["finish_reason"] if row.get(name) is not None)
            found["finish_reason"] = next(told, None)
        if isinstance(cut := found.get("finish_reason"), bool):
            found["finish_reason"] = "length" if cut else "stop"
        if padded:
            found["prompt_token_ids"] = _unpadded(found["prompt_token_ids"], row.get("prompt_mask"))
        return found

    prompt = fields.get("prompt", "")
    bare = prompt if prompt in _QUESTIONS and isinstance(row.get(prompt), str) else ""
    return Shape("fields by name", fields, adapt, bare=bare)


def _unpadded(ids: Any, mask: Any) -> Any:
    """A prompt without its padding. Raises BadField where the mask does not fit it."""
    if mask is None or ids is None:
        return ids
    ids, mask = list(ids), list(mask)
    if len(ids) != len(mask):
        raise BadField("prompt_token_ids", f"prompt_mask has {len(mask)} values for {len(ids)} tokens")
    return [int(each) if isinstance(each, np.integer) else each for each, kept in zip(ids, mask, strict=True) if kept]
