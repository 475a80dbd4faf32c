"""Stored responses graded again: a label version beside the scores, which stay as they were."""

# pyright: reportUnknownParameterType=false
# (pyarrow ships no types)

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from evals.run.grading import grade_responses, verifier_versions
from evals.run.stage import report_of, write_scores
from evals.statistics.scores import EntryRecord, read_entries
from pipeline.config import stage_hash
from pipeline.config.rewards import RewardsConfig
from pipeline.errors import StoreError
from pipeline.rewards import GradeItem, Grader
from pipeline.rewards.types import Extra
from pipeline.run.report import StageReport
from pipeline.store import Partition, Store


def run_regrade(
    store: Store,
    dataset: str,
    generation: int,
    rewards: RewardsConfig,
    label: str,
    verifier: str | None = None,
    overwrite: bool = False,
) -> StageReport:
    """Write `scores@<label>` from the responses that `scores` was graded from; nothing is generated.

    `verifier` grades every response, whatever its problem names. The rows and the manifest's parents say which verifier
    versions and responses a label comes from. Raises StoreError when nothing was scored yet, or the responses are gone.
    """
    started = time.monotonic()
    scored = store.partition(dataset, "scores", generation)
    records = list(read_entries(scored).values())
    partition = store.partition(dataset, f"scores@{label}", generation)
    sources = [_responses(store, record) for record in records]
    with Grader(_declaring(rewards, sources, verifier)) as grader:
        keys = [_key(grader, record, source, verifier) for record, source in zip(records, sources, strict=True)]
        if partition.is_committed() and {e.key for e in read_entries(partition).values()} == set(keys):
            return report_of("regrade", partition.manifest(), started, skipped=True)
        tables: list[pa.Table] = []
        graded: list[EntryRecord] = []
        for record, source, key in zip(records, sources, keys, strict=True):
            first = len(tables)
            tables += grade_responses(grader, source, verifier)
            graded.append(replace(record, key=key, first_shard=first, shard_count=len(tables) - first))
    parents = {source.name: record.responses_hash for source, record in zip(sources, records, strict=True)}
    manifest = write_scores(partition, tables, graded, parents, overwrite)
    return report_of("regrade", manifest, started, skipped=False)


def _responses(store: Store, record: EntryRecord) -> Partition:
    """The responses an entry was graded from, unchanged since."""
    dataset, table, generation = record.responses.rsplit("/", 2)
    found = store.partition(dataset, table, int(generation.removeprefix("generation=")))
    if found.manifest().hash != record.responses_hash:
        raise StoreError(f"{found.name} was written anew since it was scored; run `tbrm evaluate --replace` first")
    return found


def _key(grader: Grader, record: EntryRecord, responses: Partition, verifier: str | None) -> str:
    """Names the regraded scores of an entry: its responses and what grades them."""
    items = (GradeItem("", "", verifier or name or None, extra) for name, extra in _named(responses))
    versions = verifier_versions(grader, items)
    return stage_hash(record.responses_hash, grader.config.deciding(), versions, verifier or "")


def _declaring(rewards: RewardsConfig, sources: Sequence[Partition], verifier: str | None) -> RewardsConfig:
    """`rewards` with the built-in verifiers and the tasks that the stored problems name, or with the given `verifier`.

    `evaluate` wrote them, from benchmarks that declare what their problems name. Functions stay what the YAML names.
    """
    if verifier and verifier != "reasoning_gym":
        return rewards.declaring({verifier}, ())
    found = [pair for source in sources for pair in _named(source)]
    tasks = {str(extra["task"]) for _, extra in found if "task" in extra}
    return rewards.declaring({name for name, _ in found}, tasks)


def _named(responses: Partition) -> Iterator[tuple[str, Extra]]:
    """(verifier, extra) of every stored problem; the name is empty for the experiment's own."""
    for _, rows in responses.iter_shards(["verifier", "extra"]):
        pairs = zip(rows["verifier"].to_pylist(), rows["extra"].to_pylist(), strict=True)
        for name, extra in dict.fromkeys(pairs):
            yield str(name or ""), json.loads(str(extra))
