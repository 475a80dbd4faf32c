"""The curves of an experiment: reward, accuracy, residual, V(s_1), KL, length of untruncated responses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute

from evals.report.chart import Chart, Point, Series, thinned
from evals.report.history import GenerationRecord
from evals.statistics.intervals import Interval, accuracy_interval, mean_interval, share_interval
from evals.statistics.scores import Scores
from pipeline.errors import StoreError
from pipeline.store import Store

AllScores = Mapping[int, Mapping[str, Scores]]
"""By generation, then by benchmark."""
METRICS_FILE = "metrics.jsonl"
pc: Any = pyarrow.compute  # its functions are made at import time, unseen by type checkers


@dataclass(frozen=True)
class Lengths:
    """Of one generation's responses: mean tokens of those that ended by themselves, share of those cut off."""

    untruncated: Interval | None
    cut: Interval


def curves(
    history: Sequence[GenerationRecord],
    updates: Sequence[Mapping[str, Any]],
    all_scores: AllScores,
    lengths: Mapping[int, Lengths],
) -> list[Chart]:
    """Every chart that has data, in the order of the page. `lengths` are those of `sampled_lengths`."""
    charts = [
        Chart(
            "Reward",
            "mean r(τ)",
            [
                Series("sampled", [_point(r.generation, r.reward) for r in history if r.reward]),
                _by_update("training batches", updates, "reward"),
            ],
            floor=0.0,
            ceiling=1.0,
            note="95% intervals over prompts",
        ),
        Chart("Benchmark accuracy", "%", _accuracies(history), 0.0, 100.0, "95% intervals"),
        _of_training("|Bellman residual|", "mean, nats", "residual_abs", history, updates, floor=0.0),
        _of_training("Soft value V(s₁)", "mean, nats", "value_first", history, updates),
        Chart(
            "KL to the reference",
            "nats a response",
            [Series("on its own samples", [Point(r.generation, r.kl) for r in history if r.kl is not None])],
        ),
        Chart(
            "Length of untruncated responses",
            "mean, tokens",
            [
                Series("sampled", [_point(g, one.untruncated) for g, one in lengths.items() if one.untruncated]),
                *_benchmark_lengths(all_scores),
            ],
            floor=0.0,
            note="95% intervals; responses that were cut off are left out",
        ),
        Chart(
            "Responses cut off",
            "%",
            [
                Series("sampled", [_point(g, one.cut, 100) for g, one in lengths.items()]),
                *_shares_cut(all_scores),
            ],
            floor=0.0,
            ceiling=1.0,
        ),
        _of_training("Gradient norm", "before clipping", "grad_norm", history, updates, floor=0.0),
        Chart("Wall time", "seconds a generation", _seconds(history), floor=0.0),
    ]
    return [_without_empty(chart) for chart in charts if not chart.is_empty]


def read_updates(store: Store, name: str, generations: Sequence[int]) -> list[dict[str, Any]]:
    """Every update's metrics in order; `x` is its place on the axis of generations. Raises StoreError when damaged."""
    found: list[dict[str, Any]] = []
    for generation in generations:
        path = store.join(name, "trained_policy", f"generation={generation:04d}", METRICS_FILE)
        if not store.fs.exists(path):
            continue
        try:
            rows = [json.loads(line) for line in store.read_bytes(path).decode().splitlines()]
            # Generation g is trained between g and g + 1.
            found += [row | {"x": generation + (row["update"] - 0.5) / len(rows)} for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged ({error!r}): train the generation again with --replace") from error
    return found


def sampled_lengths(store: Store, name: str, history: Sequence[GenerationRecord]) -> dict[int, Lengths]:
    """Lengths of each generation's sampled responses; intervals over prompts."""
    found: dict[int, Lengths] = {}
    for record in history:
        partition = store.partition(name, "rollouts", record.generation)
        if not partition.is_committed():
            continue
        prompts: list[str] = []
        lengths: list[int] = []
        ended: list[bool] = []
        for _, rows in partition.iter_shards(["prompt_id", "response_token_ids", "finish_reason"]):
            prompts += [str(prompt) for prompt in rows["prompt_id"].to_pylist()]
            lengths += pc.list_value_length(rows["response_token_ids"]).to_pylist()
            ended += [reason == "stop" for reason in rows["finish_reason"].to_pylist()]
        whole = [(prompt, length) for prompt, length, end in zip(prompts, lengths, ended, strict=True) if end]
        found[record.generation] = Lengths(
            untruncated=clustered_mean(*zip(*whole, strict=True)) if whole else None,
            cut=share_interval(1 - float(np.mean(ended)), len(set(prompts))),
        )
    return found


def clustered_mean(groups: Sequence[str], values: Sequence[float]) -> Interval:
    """Mean of values with an interval over groups: responses to one prompt are alike."""
    _, of = np.unique(np.asarray(groups), return_inverse=True)
    means = np.bincount(of, weights=np.asarray(values, dtype=np.float64)) / np.bincount(of)
    spread = mean_interval(means)
    mean = float(np.mean(values))
    return Interval(mean, mean - (spread.value - spread.low), mean + (spread.high - spread.value))


def _of_training(
    title: str,
    unit: str,
    name: str,
    history: Sequence[GenerationRecord],
    updates: Sequence[Mapping[str, Any]],
    floor: float | None = None,
) -> Chart:
    """A quantity of training: the mean of each generation in its middle, single updates behind it."""
    means = [Point(r.generation + 0.5, float(r.training[name])) for r in history if name in r.training]
    return Chart(title, unit, [Series("mean of a generation", means), _by_update("updates", updates, name)], floor)


def _by_update(name: str, updates: Sequence[Mapping[str, Any]], metric: str) -> Series:
    points = [Point(row["x"], float(row[metric])) for row in updates if metric in row]
    return Series(name, thinned(points), faint=True)


def _accuracies(history: Sequence[GenerationRecord]) -> list[Series]:
    names = list(dict.fromkeys(name for record in history for name in record.accuracy))
    return [
        Series(
            name,
            [_point(r.generation, r.accuracy[name], 100) for r in history if name in r.accuracy],
        )
        for name in names
    ]


def _benchmark_lengths(all_scores: AllScores) -> list[Series]:
    found: dict[str, list[Point]] = {}
    for generation, by_name in all_scores.items():
        for name, scores in by_name.items():
            ended = ~scores.truncated
            if ended.any():
                problems = np.broadcast_to(np.asarray(scores.problem_ids)[:, None], ended.shape)
                interval = clustered_mean(problems[ended].tolist(), scores.tokens[ended].tolist())
                found.setdefault(name, []).append(_point(generation, interval))
    return [Series(name, points) for name, points in found.items()]


def _shares_cut(all_scores: AllScores) -> list[Series]:
    names = list(dict.fromkeys(name for by_name in all_scores.values() for name in by_name))
    return [
        Series(
            name,
            [
                _point(g, accuracy_interval(by_name[name].truncated.astype(np.float64)), 100)
                for g, by_name in all_scores.items()
                if name in by_name
            ],
        )
        for name in names
    ]


def _seconds(history: Sequence[GenerationRecord]) -> list[Series]:
    names = list(dict.fromkeys(name for record in history for name in record.seconds))
    return [Series(n, [Point(r.generation, r.seconds[n]) for r in history if n in r.seconds]) for n in names]


def _point(x: float, interval: Interval, scale: float = 1.0) -> Point:
    return Point(x, scale * interval.value, scale * interval.low, scale * interval.high)


def _without_empty(chart: Chart) -> Chart:
    kept = [series for series in chart.series if series.points]
    return Chart(chart.title, chart.unit, kept, chart.floor, chart.ceiling, chart.note, chart.x_label)
