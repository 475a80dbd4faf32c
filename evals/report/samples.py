"""Responses of several generations to the same problem, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from evals.report.curves import AllScores
from evals.statistics.scores import Scores, read_entries
from pipeline.replay.mix import partition_of
from pipeline.store import Store

PROBLEMS, POLICIES, CHARACTERS = 6, 4, 6_000
"""At most so many problems of a benchmark, policies beside each other, and characters of a response."""


@dataclass(frozen=True)
class Response:
    """What one policy answered. `text` is cut in the middle when it is very long."""

    generation: int
    text: str
    correct: float | None
    extracted: str | None
    tokens: int | None
    finish_reason: str


@dataclass(frozen=True)
class SideBySide:
    """One problem and the first response of each shown policy. `why` says how the problem was chosen."""

    benchmark: str
    problem_id: str
    why: str
    prompt: str
    answer: str
    responses: Sequence[Response]


def side_by_side(store: Store, name: str, all_scores: AllScores) -> list[SideBySide]:
    """Problems of every benchmark that was scored at the first and the last shown policy.

    Chosen by rule, not by eye: those learned, those lost, those never and always solved, in the order of the benchmark.
    """
    shown = evenly(sorted(all_scores), POLICIES)
    found: list[SideBySide] = []
    for benchmark in all_scores[shown[0]] if shown else ():
        having = [g for g in shown if benchmark in all_scores[g]]
        chosen = choose([all_scores[g][benchmark] for g in having])
        if chosen:
            found += _problems(store, name, benchmark, all_scores, having, chosen)
    return found


def evenly(values: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the values, first and last among them."""
    if len(values) <= limit:
        return list(values)
    return [values[round(i * (len(values) - 1) / (limit - 1))] for i in range(limit)]


def choose(scores: Sequence[Scores]) -> dict[str, str]:
    """Problem id -> why it is shown: at most two learned, two lost, one never and one always solved."""
    first, last = scores[0], scores[-1]
    after = dict(zip(last.problem_ids, last.correct[:, 0] >= 1, strict=True))
    before = {p: bool(c) for p, c in zip(first.problem_ids, first.correct[:, 0] >= 1, strict=True) if p in after}
    kinds = {
        "wrong at first, right at last": ([p for p in before if not before[p] and after[p]], 2),
        "right at first, wrong at last": ([p for p in before if before[p] and not after[p]], 2),
        "wrong at both ends": ([p for p in before if not before[p] and not after[p]], 1),
        "right at both ends": ([p for p in before if before[p] and after[p]], 1),
    }
    return {p: why for why, (problems, limit) in kinds.items() for p in problems[:limit]}


def shortened(text: str) -> str:
    """Beginning and end of a very long text, with the number of characters left out."""
    if len(text) <= CHARACTERS:
        return text
    half = CHARACTERS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def _problems(
    store: Store,
    name: str,
    benchmark: str,
    all_scores: AllScores,
    generations: Sequence[int],
    chosen: Mapping[str, str],
) -> list[SideBySide]:
    answers = {g: _first_responses(store, name, g, benchmark, chosen) for g in generations}
    prompts = _prompts(store, all_scores[generations[0]][benchmark].responses, chosen)
    return [
        SideBySide(
            benchmark,
            problem,
            why,
            shortened(prompts.get(problem, ("", ""))[0]),
            prompts.get(problem, ("", ""))[1],
            [answers[g][problem] for g in generations if problem in answers[g]],
        )
        for problem, why in chosen.items()
    ]


def _first_responses(
    store: Store, name: str, generation: int, benchmark: str, chosen: Mapping[str, str]
) -> dict[str, Response]:
    partition = store.partition(name, "scores", generation)
    columns = ["problem_id", "sample_index", "correct", "response_text", "finish_reason"]
    columns += ["extracted_answer", "response_tokens"]
    return {
        row["problem_id"]: Response(
            generation,
            shortened(row["response_text"]),
            row["correct"],
            row["extracted_answer"],
            row["response_tokens"],
            row["finish_reason"],
        )
        for index in read_entries(partition)[benchmark].shards
        for row in _rows(partition.read_shard(index, columns), chosen)
    }


def _prompts(store: Store, responses: str, chosen: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Problem id -> (prompt as the policy saw it, gold answer)."""
    columns = ["problem_id", "sample_index", "prompt_text", "answer"]
    return {
        row["problem_id"]: (row["prompt_text"], row["answer"])
        for _, rows in partition_of(store, responses).iter_shards(columns)
        for row in _rows(rows, chosen)
    }


def _rows(table: pa.Table, chosen: Mapping[str, str]) -> list[dict[str, Any]]:
    """First samples of the chosen problems."""
    keys = zip(table["problem_id"].to_pylist(), table["sample_index"].to_pylist(), strict=True)
    wanted = [i for i, (problem, sample) in enumerate(keys) if sample == 0 and problem in chosen]
    return table.take(pa.array(wanted, pa.int64())).to_pylist()
