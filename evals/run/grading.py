"""Stored responses are graded into table `scores`, and again, by any verifier, into `scores@<label>` beside it."""

# pyright: reportUnknownParameterType=false
# (pyarrow ships no types)

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from evals.statistics.metrics import summarize
from evals.statistics.scores import EntryRecord, read_entries, scores_of_table
from pipeline.config import stage_hash
from pipeline.config.rewards import RewardsConfig
from pipeline.errors import StoreError
from pipeline.replay.mix import partition_of
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import Extra, GradeItem
from pipeline.run.progress import track
from pipeline.run.resumable import StageReport
from pipeline.store import SCHEMAS, Manifest, Partition, Stat, Store

_COLUMNS = (
    "benchmark",
    "problem_id",
    "sample_index",
    "answer",
    "verifier",
    "extra",
    "response_text",
    "response_tokens",
    "finish_reason",
    "policy_id",
)


def grade_responses(grader: Grader, responses: Partition, verifier: str | None = None) -> Iterator[pa.Table]:
    """Shard k of the responses as shard k of scores, in the same order.

    `verifier` grades every row, whatever its problem names. `correct` is the verdict in [0, 1] without the weights of
    the experiment's reward; a response without a verdict counts as wrong and keeps its status.
    """
    manifest = responses.manifest()
    with track(f"grade {responses.table.partition('@')[2]}", manifest.rows, "responses") as progress:
        for index in range(len(manifest.shards)):
            rows = responses.read_shard(index, _COLUMNS, manifest).to_pylist()
            items = [
                GradeItem(
                    row["response_text"],
                    row["answer"],
                    verifier or row["verifier"] or None,
                    json.loads(row["extra"]),
                    row["response_tokens"],
                )
                for row in rows
            ]
            scores: list[dict[str, Any]] = []
            for row, item, label in zip(rows, items, grader.grade(items), strict=True):
                used = grader.verifier_of(item)
                scores.append(
                    {name: row[name] for name in SCHEMAS["scores"].names if name in row}
                    | {
                        "correct": label.components.get("correctness", 0.0),
                        "extracted_answer": label.extracted_answer,
                        "status": label.status,
                        "verifier": used.name,
                        "verifier_version": used.version,
                        "detail": label.detail,
                    }
                )
                progress.advance()
            yield pa.Table.from_pylist(scores, SCHEMAS["scores"])


def verifier_versions(grader: Grader, items: Iterable[GradeItem]) -> dict[str, str]:
    """Version of each verifier that will grade. Raises TbrmError for one, or a task, that nobody declares."""
    verifiers = map(grader.verifier_of, items)
    return dict(sorted((verifier.name, verifier.version) for verifier in verifiers))


def write_scores(
    partition: Partition,
    tables: Sequence[pa.Table],
    records: Sequence[EntryRecord],
    parents: dict[str, str],
    overwrite: bool,
) -> Manifest:
    """Commit graded responses; headline numbers of each entry, with their intervals, go into the manifest's stats."""
    config_hash = stage_hash(*(record.key for record in records))
    with partition.writer(config_hash, parents, overwrite) as writer:
        for index, table in enumerate(tables):
            writer.write(index, table)
        stats: dict[str, Stat] = {}
        for record in records:
            rows = pa.concat_tables([tables[index] for index in record.shards])
            stats |= summarize(scores_of_table(rows, record)).to_stats(record.name)
        stats["entries"] = json.dumps([asdict(record) for record in records], sort_keys=True)
        return writer.commit(len(tables), stats)


def report_of(stage: str, manifest: Manifest, started: float, skipped: bool) -> StageReport:
    return StageReport(
        stage,
        manifest.dataset,
        manifest.generation,
        manifest.rows,
        time.monotonic() - started,
        skipped,
        {name: value for name, value in manifest.stats.items() if name != "entries"},
    )


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
    found = partition_of(store, record.responses)
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

    `evaluate` wrote the problems, from benchmarks that declare the verifiers which their problems name. A function is a
    verifier only where the YAML names it.
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
