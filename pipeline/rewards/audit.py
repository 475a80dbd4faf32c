"""The audit: labels of a sample graded again by a second, independent method (the `plain` verifier).

A policy under optimization finds what a verifier wrongly accepts; a rising share of rewarded responses that the second
method calls wrong is how that shows. A disagreement says that somebody should look, not which of the two is right.
"""

import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.config import Experiment
from pipeline.config.rewards import RewardsConfig
from pipeline.errors import TbrmError
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import UNDECIDED, GradeItem, read_items
from pipeline.rewards.verifiers.r1_format import tagged_answer
from pipeline.store import Partition, Store, check_aligned

AUDITED = ("math_verify", "exact_integer", "r1_format")
"""Verifiers of mathematical answers. The others have no second method that means the same."""
_SENTENCE = re.compile(r"\$|\\[(\[]|(?<![\\A-Za-z{])[A-Za-z]{2,}")
MOST_SHARDS = 8
"""Shards, evenly spaced, that the sample is drawn from."""
_LABELS = ("trajectory_id", "status", "verifier", "extracted_answer", "detail", "components")


@dataclass(frozen=True)
class Disagreement:
    """One response on which two methods differ, with both reasons. `reward` is the first method's correctness."""

    trajectory_id: str
    answer: str
    reward: float
    verifier: str
    extracted_answer: str | None
    detail: str | None
    second_answer: str | None
    second_detail: str | None


@dataclass(frozen=True)
class Audit:
    """The outcome for one generation."""

    generation: int
    sampled: int
    rewarded: tuple[Disagreement, ...]
    """Rewarded, but called wrong by the second method: suspected false positives."""
    unrewarded: tuple[Disagreement, ...]

    @property
    def disagreement_share(self) -> float:
        return (len(self.rewarded) + len(self.unrewarded)) / max(self.sampled, 1)

    def to_json(self) -> Mapping[str, object]:
        return asdict(self) | {"disagreement_share": self.disagreement_share}


ReadLabels = Callable[[int, Sequence[str]], pa.Table]
"""Shard number and columns to rows of the `rewards` table, committed or about to be."""


def audit_experiment(
    experiment: Experiment, store: Store, generations: Sequence[int], dataset: str | None, sample: int
) -> list[Audit]:
    """Audit the given generations, or all that are labelled. Raises TbrmError when there are none."""
    dataset = dataset or experiment.name
    chosen = list(generations) or store.generations(dataset, "rewards")
    if not chosen:
        raise TbrmError(f"{dataset} has no rewards yet: run `tbrm rewards -e {experiment.name} -g 0` first")
    found: list[Audit] = []
    for generation in chosen:
        shards = len(store.partition(dataset, "rewards", generation).manifest().shards)
        rollouts = store.partition(dataset, "rollouts", generation)
        labels = store.partition(dataset, "rewards", generation).read_shard
        found.append(audit_generation(experiment.rewards, rollouts, labels, shards, sample))
    return found


def audit_generation(
    config: RewardsConfig, rollouts: Partition, read_labels: ReadLabels, shards: int, sample: int
) -> Audit:
    """Compare the correctness of up to `sample` decided rows with the second method's verdict.

    The sample is a function of the trajectory ids: the same rows each time. Raises StoreError for misaligned labels.
    """
    prompts = Partition(rollouts.store, rollouts.dataset, "prompts", rollouts.generation)
    indices = sorted({round(i * (shards - 1) / (MOST_SHARDS - 1)) for i in range(MOST_SHARDS)}) if shards else []
    sampled: list[_Row] = []
    for index in indices:
        labels = read_labels(index, _LABELS)
        where = f"labels of {rollouts.name} shard {index}"
        check_aligned(rollouts.read_shard(index, ["trajectory_id"]), labels, where)
        decided = [
            _Row(row.trajectory_id, row.item, label)
            for row, label in zip(read_items(rollouts, prompts, index), labels.to_pylist(), strict=True)
            if label["status"] not in UNDECIDED and label["verifier"] in AUDITED
        ]
        sampled = heapq.nsmallest(sample, sampled + decided, key=lambda row: row.trajectory_id)
    return _compare(config, rollouts.generation, sampled)


@dataclass(frozen=True)
class _Row:
    trajectory_id: str
    item: GradeItem
    label: Mapping[str, Any]  # a row of `rewards`

    def correct(self) -> bool:
        return dict(self.label["components"]).get("correctness", 0.0) > 0.5


def _compare(config: RewardsConfig, generation: int, rows: list[_Row]) -> Audit:
    second = config.model_copy(update={"verifier": "plain", "require_boxed": False})
    rewarded: list[Disagreement] = []
    unrewarded: list[Disagreement] = []
    with Grader(second) as grader:
        verdicts = grader.grade(_for_plain(row.item, row.label["verifier"]) for row in rows)
        for row, again in zip(rows, verdicts, strict=True):
            if row.correct() == (again.components.get("correctness", 0.0) > 0.5):
                continue
            found = Disagreement(
                row.trajectory_id,
                row.item.answer,
                float(row.correct()),
                row.label["verifier"],
                row.label["extracted_answer"],
                row.label["detail"],
                again.extracted_answer,
                again.detail or again.status,
            )
            (rewarded if row.correct() else unrewarded).append(found)
    return Audit(generation, len(rows), tuple(rewarded), tuple(unrewarded))


def _for_plain(item: GradeItem, verifier: str) -> GradeItem:
    """The same response for the second method; of an R1 response what stands in the answer tags."""
    response = item.response
    if verifier == "r1_format":
        response = tagged_answer(response) or ""
        if response and not _SENTENCE.search(response):
            response = f"<answer>{response}</answer>"  # all of it is the answer, not the last number in it
    return GradeItem(response, item.answer)
