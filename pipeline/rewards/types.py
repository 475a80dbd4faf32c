"""What a verifier gets and what it gives, and stored trajectories as items to grade."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import StoreError, TbrmError

if TYPE_CHECKING:  # the workers' fork server imports this module, and is to start soon
    from pydantic import JsonValue

    from pipeline.store import Partition

Status = Literal["ok", "wrong_format", "timeout", "memory", "error"]
STATUSES: tuple[Status, ...] = ("ok", "wrong_format", "timeout", "memory", "error")
UNDECIDED: frozenset[str] = frozenset({"timeout", "memory", "error"})
"""Statuses without a verdict: nothing is known about the response, which is not the same as wrong."""
Extra = Mapping[str, "JsonValue"]
MOST_NESTED = 100
"""Levels of a row's extra. Further down Python gives up at a depth that depends on who reads it: a row that one process
takes would end the next."""


@dataclass(frozen=True, slots=True)
class Conventions:
    """What mathematics leaves open; `rewards.conventions` says what each field means."""

    relative_tolerance: float = 1e-6
    percent_is_the_number: str = "where_said"
    decimal_comma: bool = False
    answer_in_thoughts: bool = False

    def suffix(self) -> str:
        """What a verifier's version ends in where a convention is not the default."""
        values = [(field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self)]
        changed = [f"{name}={value}" for name, value, default in values if value != default]
        return ";" + ",".join(changed) if changed else ""


DEFAULT = Conventions()


@dataclass(frozen=True, slots=True)
class GradeItem:
    """One response to grade. `verifier` None means the experiment's; `tokens` is the response length in tokens."""

    response: str
    answer: str
    verifier: str | None = None
    extra: Extra = field(default_factory=dict[str, "JsonValue"])
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class RewardLabel:
    """A verdict. From a verifier `reward` is the correctness in [0, 1]; from the Grader it is the weighted sum.

    `components` holds the unweighted parts (correctness, format, length); `token_rewards` has one value for each
    response token where the verifier gives them.
    """

    reward: float
    status: Status
    extracted_answer: str | None = None
    detail: str | None = None
    components: Mapping[str, float] = field(default_factory=dict[str, float])
    token_rewards: tuple[float, ...] | None = None


Grade = Callable[[str, str, Extra], RewardLabel]


def identity(response: str) -> str:
    return response


def nothing_to_prepare() -> None:
    """For a verifier that has nothing to prepare: its first row costs what the others do."""


def no_shortcut(response: str, answer: str, require_boxed: bool) -> RewardLabel | None:
    """For a verifier without shortcuts: every response goes to a worker."""
    del response, answer, require_boxed


@dataclass(frozen=True)
class Verifier:
    """A way to grade. `version` changes whenever a label could.

    `grade` runs in a worker under limits. `reduce` and `shortcut` run in the calling process over hostile text, so they
    take linear time: `reduce` keeps the part of a response that decides its label (equal parts are graded once), and
    `shortcut` decides what needs no worker, from that part, the gold answer and `require_boxed`. `prepare` runs once in
    each worker before its first row and does what that row would otherwise pay for: imports, tables of a parser.
    `runs_code` says that grading a row may run anything, so that each row is graded in a process of its own.
    """

    name: str
    version: str
    grade: Grade
    reduce: Callable[[str], str] = identity
    shortcut: Callable[[str, str, bool], RewardLabel | None] = no_shortcut
    prepare: Callable[[], object] = nothing_to_prepare
    runs_code: bool = False


def verdict(correct: bool, extracted: str | None, formatted: bool = True, detail: str | None = None) -> RewardLabel:
    """A decided label: right or wrong, and whether the answer stood where it should."""
    score = float(correct)
    return RewardLabel(score, "ok", extracted, detail, {"correctness": score, "format": float(formatted)})


def wrong_format(detail: str, extracted: str | None = None) -> RewardLabel:
    """No answer where one should stand."""
    return RewardLabel(0.0, "wrong_format", extracted, detail, {"correctness": 0.0, "format": 0.0})


_ROLLOUTS = ("trajectory_id", "prompt_id", "response_text", "response_token_ids")
_PROMPTS = ("prompt_id", "answer", "verifier", "extra")


def nested_deeper(value: Any, levels: int) -> bool:
    """Whether there are more than so many containers inside each other. Takes linear time, and no recursion."""
    level: list[Any] = [value]
    for _ in range(levels):
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for children in inside for child in children if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


@dataclass(frozen=True)
class Labelled:
    """A stored trajectory with what is needed to grade it."""

    trajectory_id: str
    item: GradeItem


def read_items(
    rollouts: "Partition", prompts: "Partition", index: int, verifier: str | None = None, token_rewards: bool = False
) -> list[Labelled]:
    """The trajectories of rollout shard `index`, each with its prompt's answer. Raises StoreError for an orphan."""
    questions = {row["prompt_id"]: row for row in prompts.read_shard(index, _PROMPTS).to_pylist()}
    found: list[Labelled] = []
    for number, row in enumerate(rollouts.read_shard(index, _ROLLOUTS).to_pylist()):
        question = questions.get(row["prompt_id"])
        if question is None:
            raise StoreError(
                f"{rollouts.name} shard {index} row {number}: prompt {row['prompt_id']!r} is not in shard {index} of "
                f"{prompts.name}; write the rollouts again with --replace"
            )
        extra = _extra(question, f"{prompts.name} shard {index}, prompt {row['prompt_id']}")
        if token_rewards:
            extra = {**extra, "response_token_ids": row["response_token_ids"]}
        name = verifier or question["verifier"] or None
        item = GradeItem(row["response_text"], question["answer"], name, extra, len(row["response_token_ids"]))
        found.append(Labelled(row["trajectory_id"], item))
    return found


def named_items(prompts: "Partition", index: int, verifier: str | None = None) -> Iterator[GradeItem]:
    """The verifiers and `extra` that the prompts of a shard name, each pair once, as items with nothing to grade."""
    columns = ("prompt_id", "verifier", "extra")
    rows = prompts.read_shard(index, columns).to_pylist()
    seen: dict[tuple[str | None, str | None], Any] = {(row["verifier"], row["extra"]): row for row in rows}
    for row in seen.values():
        extra = _extra(row, f"{prompts.name} shard {index}, prompt {row['prompt_id']}")
        yield GradeItem("", "", verifier or row["verifier"] or None, extra)


def _extra(question: dict[str, Any], where: str) -> dict[str, Any]:
    """The field `extra`; something else that is nested too deep in place of what is so deep that it cannot be read."""
    try:
        extra = json.loads(question["extra"] or "{}")
    except RecursionError:
        return functools.reduce(lambda inner, _: {"": inner}, range(MOST_NESTED), dict[str, Any]())
    except ValueError as error:
        raise TbrmError(f"{where}: field `extra` is not JSON ({error}); import or sample the prompts again") from error
    if not isinstance(extra, dict):
        raise TbrmError(f"{where}: field `extra` must be a JSON object, not {type(extra).__name__}")
    return extra
