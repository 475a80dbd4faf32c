"""Stored responses become rows of `scores`: any number of times, by any verifier."""

# pyright: reportUnknownParameterType=false
# (pyarrow ships no types)

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from pipeline.rewards import GradeItem, Grader
from pipeline.run.progress import track
from pipeline.store import SCHEMAS, Partition

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
