"""Reading scores: per benchmark an array [problem, sample], with the protocol they were made by."""

# pyright: reportUnknownParameterType=false
# (pyarrow ships no types)

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.policies.refs import pointer_path, published
from pipeline.store import Partition, Store
from pipeline.store.files import from_json

COLUMNS = (
    "problem_id",
    "sample_index",
    "correct",
    "finish_reason",
    "policy_id",
    "extracted_answer",
    "response_tokens",
    "status",
    "verifier",
    "verifier_version",
)


@dataclass(frozen=True)
class EntryRecord:
    """What a scores manifest says about one benchmark: protocol, responses it was graded from, shards it fills."""

    name: str
    key: str
    protocol: Mapping[str, Any]
    problems_hash: str
    responses: str
    responses_hash: str
    first_shard: int
    shard_count: int
    flawed: Sequence[str] = ()
    """Ids of problems that cannot be answered as stated."""
    remark: str = ""
    """How the problems differ from those that the registry knows."""
    engine: str = ""
    """`name version` of the engines that answered, joined by commas. Empty in scores written before this was noted."""
    template_version: str = ""
    """Hash of the prompt template's text. Empty in scores written before this was noted."""
    policy_id: str = ""
    """The policy that was measured. Empty in scores of an earlier version, whose rows name it."""

    @property
    def shards(self) -> range:
        return range(self.first_shard, self.first_shard + self.shard_count)


@dataclass(frozen=True)
class Scores:
    """Graded responses of one policy to one benchmark: P problems, k samples each, all arrays [P, k]."""

    benchmark: str
    policy_id: str
    protocol: Mapping[str, Any]
    problem_ids: tuple[str, ...]
    correct: NDArray[np.float64]
    tokens: NDArray[np.float64]
    truncated: NDArray[np.bool_]
    unparsed: NDArray[np.bool_]
    extracted: NDArray[np.object_]
    """Extracted answers as text; None where the verifier found none."""
    verifier: str
    """`name version` of the verifiers that graded, joined by commas."""
    responses: str
    """Name of the partition that holds the responses themselves."""
    flawed: NDArray[np.bool_]
    """Problems [P] that cannot be answered as stated."""
    remark: str = ""
    engine: str = ""
    """`name version` of the engines that answered; empty where the scores do not say."""
    template_version: str = ""

    def differs_from(self, other: "Scores") -> list[str]:
        """What two scores were not made by alike, in words. What one of them does not say is not held against it."""
        pairs = (
            ("graded by", self.verifier, other.verifier),
            ("answered by", self.engine, other.engine),
            ("asked by template version", self.template_version, other.template_version),
        )
        return [f"{what} {one} and {two}" for what, one, two in pairs if one and two and one != two]


def read_entries(partition: Partition) -> dict[str, EntryRecord]:
    """The benchmarks that a scores partition holds. Raises StoreError when it was written by something else."""
    text = partition.manifest().stats.get("entries")
    if not isinstance(text, str):
        raise StoreError(f"{partition.name} does not say what it holds; write it again with --replace")
    try:
        records = [from_json(EntryRecord, tree) for tree in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise StoreError(f"{partition.name} is damaged (entries: {error}); write it again with --replace") from error
    return {record.name: record for record in records}


def measured_policies(partition: Partition) -> set[str]:
    """The policies that a scores partition is of: one, unless it was damaged."""
    return {
        record.policy_id or str(partition.read_shard(record.first_shard, ["policy_id"])["policy_id"][0])
        for record in read_entries(partition).values()
    }


def is_measured(store: Store, dataset: str, generation: int) -> bool:
    """Whether policy[`generation`] has scores, and they are of what is published under that number now."""
    partition = store.partition(dataset, "scores", generation)
    if not partition.is_committed():
        return False
    return not store.fs.exists(pointer_path(store, dataset, generation)) or measured_policies(partition) == {
        str(published(store, dataset, generation)["policy_id"])
    }


def read_scores(store: Store, dataset: str, generation: int, label: str | None = None) -> dict[str, Scores]:
    """Scores of policy[`generation`] by benchmark; `label` reads a regraded version.

    Raises StoreError when there are none, and when they are of another policy than the one published now.
    """
    partition = store.partition(dataset, f"scores@{label}" if label else "scores", generation)
    if store.fs.exists(pointer_path(store, dataset, generation)):
        now = str(published(store, dataset, generation)["policy_id"])
        if other := measured_policies(partition) - {now}:
            again = f", then `tbrm regrade {dataset}:{generation} --label {label} --replace`" if label else ""
            raise StoreError(
                f"{partition.name} holds scores of policy {', '.join(sorted(other))}, and policy[{generation}] is now "
                f"{now}: run `tbrm evaluate -e {dataset} -g {generation}`{again}"
            )
    found: dict[str, Scores] = {}
    for name, record in read_entries(partition).items():
        rows = pa.concat_tables([partition.read_shard(index, COLUMNS) for index in record.shards])
        found[name] = scores_of_table(rows, record)
    return found


def scores_of_table(rows: pa.Table, record: EntryRecord) -> Scores:
    """Rows in the order (problem, sample) as arrays. Raises StoreError when a problem lacks a sample."""
    samples = int(record.protocol["samples"])
    ids = [str(problem) for problem in rows["problem_id"].to_pylist()]
    problems = tuple(ids[::samples])
    if ids != [problem for problem in problems for _ in range(samples)]:
        raise StoreError(f"scores of {record.name}: the rows are not {samples} samples of each problem in order")
    shape = (len(problems), samples)
    graded_by = sorted(set(zip(rows["verifier"].to_pylist(), rows["verifier_version"].to_pylist(), strict=True)))
    statuses = np.array(rows["status"].to_pylist(), dtype=object).reshape(shape)
    extracted = np.array(rows["extracted_answer"].to_pylist(), dtype=object).reshape(shape)
    return Scores(
        benchmark=record.name,
        policy_id=str(rows["policy_id"][0]),
        protocol=record.protocol,
        problem_ids=problems,
        correct=rows["correct"].to_numpy().astype(np.float64).reshape(shape),
        tokens=rows["response_tokens"].to_numpy().astype(np.float64).reshape(shape),
        truncated=(np.array(rows["finish_reason"].to_pylist(), dtype=object) == "length").reshape(shape),
        unparsed=statuses != "ok",
        extracted=extracted,
        verifier=", ".join(f"{name} {version}" for name, version in graded_by),
        responses=record.responses,
        flawed=np.isin(problems, list(record.flawed)),
        remark=record.remark,
        engine=record.engine,
        template_version=record.template_version,
    )
