"""Rates of reasoning patterns over generations of stored responses, with examples to judge them by."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from evals.patterns.detectors import PATTERNS, Evidence, detect
from evals.statistics.intervals import Interval, share_interval
from pipeline.errors import TbrmError
from pipeline.store import Store

SAMPLE = 2_000
"""At most so many responses of a group are looked at, evenly spread over it."""
GROUPS = 10
"""At most so many groups of a logged data set that several policies made."""
CONTEXT = 120
"""Characters shown on either side of the evidence."""
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class StoredResponse:
    """`id` is the trajectory's, or benchmark and problem; `prompt` names what it answers."""

    id: str
    prompt: str
    policy: str
    text: str


@dataclass(frozen=True)
class Example:
    """Evidence in its place. `rule` is the rule of the detector that matched."""

    pattern: str
    rule: str
    group: str
    response: str
    before: str
    match: str
    after: str


@dataclass(frozen=True)
class Group:
    """Responses of one generation (or of neighbouring policies of a log) and the share that shows each pattern."""

    label: str
    available: int
    responses: int
    """How many were looked at."""
    prompts: int
    rates: dict[str, Interval]
    examples: tuple[Example, ...] = field(default=())

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def pattern_groups(store: Store, dataset: str, limit: int = SAMPLE) -> list[Group]:
    """One group a generation of an experiment; a log is grouped by policy, in the natural order of their names.

    The rollouts are read; where nothing was sampled (`rollouts: none`), the responses to benchmarks. Intervals are
    those of a share over prompts, because responses to one prompt are alike. Raises TbrmError without any response.
    """
    generations = store.generations(dataset, "rollouts")
    if dataset.startswith("logged/"):
        rows = [row for g in generations for row in _rollouts(store, dataset, g)]
        return [_group(label, part, limit) for label, part in _by_policy(rows)]
    if generations:
        return [_group(str(g), list(_rollouts(store, dataset, g)), limit) for g in generations]
    scored = store.generations(dataset, "scores")
    if not scored:
        raise TbrmError(
            f"{dataset} has no responses in {store.root}. There are: {', '.join(store.datasets()) or 'no data sets'}"
        )
    return [_group(str(g), list(_scores(store, dataset, g)), limit) for g in scored]


def spread(rows: Sequence[StoredResponse], limit: int) -> list[StoredResponse]:
    """At most `limit` rows, evenly spread."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


def _group(label: str, rows: Sequence[StoredResponse], limit: int) -> Group:
    looked_at = spread(rows, limit)
    found = [detect(row.text) for row in looked_at]
    prompts = len({row.prompt for row in looked_at})
    shares = {p.name: sum(p.name in one for one in found) / max(len(found), 1) for p in PATTERNS}
    examples = [
        next(
            (
                _example(p.name, one[p.name], label, row)
                for row, one in zip(looked_at, found, strict=True)
                if p.name in one
            ),
            None,
        )
        for p in PATTERNS
    ]
    return Group(
        label=label,
        available=len(rows),
        responses=len(looked_at),
        prompts=prompts,
        rates={name: share_interval(share, prompts) for name, share in shares.items()} if prompts else {},
        examples=tuple(example for example in examples if example),
    )


def _example(pattern: str, evidence: Evidence, group: str, row: StoredResponse) -> Example:
    start, end = evidence.start, min(evidence.end, evidence.start + 2 * CONTEXT)
    return Example(
        pattern,
        evidence.rule,
        group,
        row.id,
        row.text[max(0, start - CONTEXT) : start],
        row.text[start:end],
        row.text[end : end + CONTEXT],
    )


def _by_policy(rows: Sequence[StoredResponse]) -> list[tuple[str, list[StoredResponse]]]:
    """Rows of each policy; neighbouring policies together where there are more than GROUPS."""
    by_policy: dict[str, list[StoredResponse]] = {}
    for row in rows:
        by_policy.setdefault(row.policy, []).append(row)
    names = sorted(by_policy, key=_natural)
    size = -(-len(names) // GROUPS)
    parts = [names[i : i + size] for i in range(0, len(names), size)]
    return [
        (part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}", [row for name in part for row in by_policy[name]])
        for part in parts
    ]


def _natural(name: str) -> list[tuple[int, str]]:
    """`step9` before `step10`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in _DIGITS.split(name)]


def _rollouts(store: Store, dataset: str, generation: int) -> Iterator[StoredResponse]:
    columns = ["trajectory_id", "prompt_id", "policy_id", "response_text"]
    for _, rows in store.partition(dataset, "rollouts", generation).iter_shards(columns):
        for row in rows.to_pylist():
            yield StoredResponse(row["trajectory_id"], row["prompt_id"], row["policy_id"], row["response_text"])


def _scores(store: Store, dataset: str, generation: int) -> Iterator[StoredResponse]:
    columns = ["benchmark", "problem_id", "sample_index", "policy_id", "response_text"]
    for _, rows in store.partition(dataset, "scores", generation).iter_shards(columns):
        for row in rows.to_pylist():
            problem = f"{row['benchmark']} {row['problem_id']}"
            yield StoredResponse(
                f"{problem} sample {row['sample_index']}", problem, row["policy_id"], row["response_text"]
            )
