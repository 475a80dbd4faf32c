"""The Grader: items in, labels out, in order, whatever the responses are."""

import functools
import hashlib
import json
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from pipeline.config.reasoning_gym import refusal
from pipeline.config.rewards import BUILTIN_VERIFIERS, RewardComponents, RewardsConfig
from pipeline.errors import TbrmError
from pipeline.rewards.types import (
    MOST_NESTED,
    UNDECIDED,
    Conventions,
    GradeItem,
    RewardLabel,
    Verifier,
    nested_deeper,
)
from pipeline.rewards.verifiers import RUNNING_CODE, get_verifier
from pipeline.rewards.workers.grading import Work
from pipeline.rewards.workers.pool import Task, VerifierPool
from pipeline.sandbox import Protections

REMEMBERED = 200_000
"""Labels kept for repeated answers, about 100 MB at most."""
BATCHES_AHEAD = 4
"""Batches in flight for each worker: input is read no faster than it is graded."""
WAITING_FOR_EQUAL = 8
"""Rows that wait for the label of an equal row only take memory: so many times as many of them may be under way."""


class Grader:
    """Labels responses with the experiment's verifiers. A context manager; workers start when the first row needs one.

    Equal work is done once: labels are remembered by (verifier version, decisive part of the response, answer, extra).
    `memoize=False` and `shortcuts=False` switch that off and send every row to a worker, `confined=False` leaves the
    sandbox away, for measurements.
    """

    def __init__(
        self, config: RewardsConfig, memoize: bool = True, shortcuts: bool = True, confined: bool = True
    ) -> None:
        self.config, self.memoize, self.shortcuts = config, memoize, shortcuts
        self._pool = VerifierPool(config.workers, config.timeout_s, config.cpu_s, config.memory_mb, confined)
        self._conventions = Conventions(**config.conventions.model_dump())
        self._known: OrderedDict[bytes, RewardLabel] = OrderedDict()
        self.graded = 0
        """Rows that went to a worker."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()

    @property
    def protections(self) -> Protections | None:
        """What keeps the workers from doing harm on this machine; None while no row has needed one."""
        return self._pool.protections

    def verifier_of(self, item: GradeItem) -> Verifier:
        """The verifier for an item. Raises TbrmError for a verifier or task that the experiment does not declare."""
        name = item.verifier or self.config.verifier
        if not self.config.may_run(name):
            field = "row_verifiers" if name in BUILTIN_VERIFIERS else "user_verifiers"
            raise TbrmError(
                f"the data ask for the verifier {name!r}, which this experiment does not declare. If you trust it, "
                f"name it in rewards.{field} (`tbrm grade`: --allow), or grade every row by one with --verifier"
            )
        if name == "reasoning_gym" and isinstance(task := item.extra.get("task"), str):
            name = self._verifier_of_task(task)
        return get_verifier(name, self._conventions)

    def _verifier_of_task(self, task: str) -> str:
        if not self.config.may_grade(task):
            raise TbrmError(
                f"the data ask for the scorer of the reasoning-gym task {task!r}, which this experiment does not "
                "declare. If its rows are what you want to grade, name it in rewards.reasoning_gym_tasks (`tbrm "
                "grade`: --task)"
            )
        if task in self.config.tasks_whose_scorer_runs_answers_as_code:
            return RUNNING_CODE
        if reason := refusal(task):
            raise TbrmError(f"answers to the reasoning-gym task {task!r} are not graded: {reason}")
        return "reasoning_gym"

    def grade(self, items: Iterable[GradeItem]) -> Iterator[RewardLabel]:
        """One label for each item, in order. Reads ahead by a bounded number of items.

        Raises TbrmError for an undeclared verifier, or when workers cannot be started; never for what a response holds.
        """
        run = _Run(self._pool, self.config.batch)
        for item in items:
            run.add(item, *self._settle(item))
            while run.full():
                yield self._finish(*run.first())
        run.flush()
        while run.waiting:
            yield self._finish(*run.first())
        self.graded += run.graded
        if self.protections is not None:
            _say_what_is_missing(self.protections)

    def _settle(self, item: GradeItem) -> tuple[RewardLabel | None, Work, bytes]:
        """The item's label if it is known without a worker, its work, and the key under which equal work is known."""
        verifier = self.verifier_of(item)
        if nested_deeper(item.extra, MOST_NESTED):
            detail = f"its extra is nested more than {MOST_NESTED} levels deep"
            return RewardLabel(0.0, "error", None, detail), Work(verifier.name, "", "", {}), b""
        reduced = verifier.reduce(item.response)
        work = Work(verifier.name, reduced, item.answer, item.extra, self._conventions)
        if self.shortcuts:
            label = verifier.shortcut(reduced, item.answer, self.config.require_boxed)
            if label is not None:
                return label, work, b""
        if not self.memoize:
            return None, work, b""
        key = _key(verifier, work)
        label = self._known.get(key)
        if label is not None:
            self._known.move_to_end(key)
        return label, work, key

    def _finish(self, item: GradeItem, label: RewardLabel, key: bytes) -> RewardLabel:
        if key:
            self._known[key] = label
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return compose(label, item, self.config)


class _Run:
    """One call of `Grader.grade`: items waiting for their label in order, and the batches under way."""

    def __init__(self, pool: VerifierPool, batch: int) -> None:
        self.pool, self.batch = pool, batch
        self.waiting: deque[tuple[GradeItem, RewardLabel | _Place, bytes]] = deque()
        self.places: dict[bytes, _Place] = {}
        self.open: _Batch = _Batch()
        self.graded = self.collected = 0  # rows given to workers, and labelled by them

    def add(self, item: GradeItem, label: RewardLabel | None, work: Work, key: bytes) -> None:
        if label is not None:
            self.waiting.append((item, label, key))
            return
        place = self.places.get(key) if key else None
        if place is None:
            place = _Place(self.open, len(self.open.rows))
            self.open.rows.append(work)
            self.graded += 1
            if key:
                self.places[key] = place
            if len(self.open.rows) >= self.batch:
                self.flush()
        self.waiting.append((item, place, key))

    def flush(self) -> None:
        if self.open.rows:
            self.open.task = self.pool.submit(self.open.rows)
            self.open = _Batch()

    def full(self) -> bool:
        """Whether no further item should be read. Rows with equal work only take memory: more of them may wait."""
        limit = self.batch * BATCHES_AHEAD * self.pool.workers
        return self.graded - self.collected > limit or len(self.waiting) > WAITING_FOR_EQUAL * limit

    def first(self) -> tuple[GradeItem, RewardLabel, bytes]:
        item, label, key = self.waiting.popleft()
        if isinstance(label, _Place):
            if label.batch is self.open:
                self.flush()
            self.places.pop(key, None)
            self.collected += label.batch.collect(self.pool)
            label = label.batch.labels[label.row]
        return item, label, key


class _Batch:
    """Rows that travel together."""

    def __init__(self) -> None:
        self.rows: list[Work] = []
        self.task: Task | None = None
        self.labels: list[RewardLabel] = []

    def collect(self, pool: VerifierPool) -> int:
        """Wait for the labels, if nobody has done so yet; returns how many came."""
        if self.labels or self.task is None:
            return 0
        self.labels = pool.collect(self.task)
        return len(self.labels)


class _Place:
    """Where the label of an item will be: row `row` of a batch. Equal items share one."""

    def __init__(self, batch: _Batch, row: int) -> None:
        self.batch, self.row = batch, row


def compose(label: RewardLabel, item: GradeItem, config: RewardsConfig) -> RewardLabel:
    """The label with its reward: Σ weight · component, or `timeout_reward` where there is no verdict."""
    status, detail = label.status, label.detail
    if not all(map(math.isfinite, (label.reward, *label.components.values(), *(label.token_rewards or ())))):
        status, detail = "error", "the verifier returned a number that is not finite"
    if label.token_rewards is not None and len(label.token_rewards) != item.tokens:
        status, detail = "error", f"{len(label.token_rewards)} token rewards for {item.tokens} response tokens"
    if status in UNDECIDED:
        return RewardLabel(config.timeout_reward, status, label.extracted_answer, detail)
    weights = config.components
    parts = {"correctness": label.reward, "format": 1.0, **label.components}
    parts["length"] = length_part(item.tokens, weights)
    weighted = {"correctness": weights.correctness, "format": weights.format, "length": weights.length}
    reward = sum(weight * parts[name] for name, weight in weighted.items())
    return RewardLabel(reward, label.status, label.extracted_answer, label.detail, parts, label.token_rewards)


def length_part(tokens: int | None, weights: RewardComponents) -> float:
    """0 up to `length_free_tokens`, then linear down to -1 at `length_max_tokens`. 0 when the length is not known."""
    if tokens is None:
        return 0.0
    over = (tokens - weights.length_free_tokens) / (weights.length_max_tokens - weights.length_free_tokens)
    return -min(max(over, 0.0), 1.0)


@functools.cache
def _say_what_is_missing(protections: Protections) -> None:
    """Once a process, and only where something is missing."""
    gaps = protections.missing()
    if gaps and protections != Protections():
        logging.getLogger(__name__).warning(
            "this machine cannot fully confine verifiers: what runs in one could %s. In force: %s",
            ", ".join(gaps),
            protections.describe(),
        )


def _key(verifier: Verifier, work: Work) -> bytes:
    """Hash of everything a label depends on. Lone surrogates are legal in a response, hence `surrogatepass`."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (verifier.name, verifier.version, work.response, work.answer, json.dumps(work.extra, sort_keys=True)):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
