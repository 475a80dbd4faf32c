"""The course of an experiment from the store's manifests: what each generation sampled, learned, scored and cost.

`summarize` shows it at the end of `tbrm run`, as a table and as a picture of curves.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from evals.statistics.intervals import Interval, accuracy_interval, mean_interval, share_interval
from evals.statistics.scores import read_entries, read_scores
from pipeline.config import Experiment
from pipeline.console import PlainConsole
from pipeline.replay.mix import partition_of
from pipeline.store import Manifest, Store
from pipeline.store.partition import MANIFEST, parse_manifest

STAGES = {
    "rollouts": "rollouts",
    "rewards": "rewards",
    "ref_logprobs": "ref_logprobs",
    "trained_policy": "train",
    "scores": "evaluate",
}
"""What is in the store -> name of the stage that makes it, in the order of the loop."""
PICTURE = "curves.png"
TABLES = ("rollouts", "rewards", "ref_logprobs", "scores")


@dataclass(frozen=True)
class GenerationRecord:
    """Generation g: trajectories sampled from policy[g], the training that followed, benchmark scores of policy[g]."""

    generation: int
    reward: Interval | None = None
    """Mean reward of the sampled trajectories; prompts are the independent units."""
    accuracy: Mapping[str, Interval] = field(default_factory=dict[str, Interval])
    """By benchmark entry."""
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Statistics of the rollouts' manifest."""
    kl: float | None = None
    """KL(policy[g] || reference) in nats a response, estimated on policy[g]'s own samples."""
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Statistics of the trained policy's manifest."""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Wall seconds by stage."""


def read_history(experiment: Experiment, store: Store) -> list[GenerationRecord]:
    """Every generation that left something in the store; the last one may be a published policy with scores alone."""
    records = [_record(experiment, store, g) for g in range(experiment.generations + 1)]
    return [r for r in records if r.seconds or r.training or r.accuracy]


def _record(experiment: Experiment, store: Store, generation: int) -> GenerationRecord:
    manifests: dict[str, Manifest] = {}
    for table in TABLES:
        partition = store.partition(experiment.name, table, generation)
        if partition.is_committed():
            manifests[table] = partition.manifest()
    path = store.join(experiment.name, "trained_policy", f"generation={generation:04d}", MANIFEST)
    trained = parse_manifest(store.read_bytes(path).decode(), path) if store.fs.exists(path) else None
    reference = manifests["ref_logprobs"].stats if "ref_logprobs" in manifests else {}
    scores = read_scores(store, experiment.name, generation) if "scores" in manifests else {}
    return GenerationRecord(
        generation=generation,
        reward=sampled_reward(store, experiment.name, generation) if "rewards" in manifests else None,
        accuracy={name: accuracy_interval(found.correct) for name, found in scores.items()},
        sampling=manifests["rollouts"].stats if "rollouts" in manifests else {},
        kl=float(reference["behaviour_kl"]) if "behaviour_kl" in reference else None,
        training=trained.stats if trained else {},
        seconds=_seconds(store, experiment.name, generation, manifests, trained),
    )


def _seconds(
    store: Store, dataset: str, generation: int, manifests: Mapping[str, Manifest], trained: Manifest | None
) -> dict[str, float]:
    found = dict(manifests) | ({"trained_policy": trained} if trained else {})
    if "scores" in found:  # an evaluation's seconds stand with its responses, which are kept apart from their grades
        del found["scores"]
        entries = read_entries(store.partition(dataset, "scores", generation)).values()
        found |= {entry.responses: partition_of(store, entry.responses).manifest() for entry in entries}
    seconds: dict[str, float] = {}
    for table, manifest in found.items():
        stage = STAGES.get(table, "evaluate")
        seconds[stage] = seconds.get(stage, 0.0) + float(manifest.stats.get("seconds", 0.0))
    return seconds


def sampled_reward(store: Store, dataset: str, generation: int) -> Interval:
    """Mean reward with its 95% interval over prompts, whose responses are alike."""
    rewards, prompts = store.partition(dataset, "rewards", generation), list[str]()
    values: list[float] = []
    for index, rows in store.partition(dataset, "rollouts", generation).iter_shards(["prompt_id"]):
        prompts += rows["prompt_id"].to_pylist()
        values += rewards.read_shard(index, ["reward"])["reward"].to_numpy().tolist()
    _, group = np.unique(np.asarray(prompts), return_inverse=True)
    sums, sizes = np.bincount(group, weights=np.asarray(values)), np.bincount(group)
    means = sums / sizes
    # Rewards that are all 0 or all 1 do not vary in the sample, which says little about the policy.
    alike = np.ptp(means) == 0 and 0 <= means[0] <= 1
    found = share_interval(float(means[0]), len(means)) if alike else mean_interval(means)
    return Interval(float(np.mean(values)), found.low, found.high)


def summarize(experiment: Experiment, store: Store) -> None:
    """Print one row a generation, and write `<root>/<experiment>/curves.png`."""
    history = read_history(experiment, store)
    if not history:
        return
    # Wide enough for the numbers where the output is a file or a log.
    console = PlainConsole(width=None if PlainConsole().is_terminal else 160, soft_wrap=False)
    console.print(_table(experiment, history))
    console.print(
        "accuracy in % with 95% interval; row g: scores of policy[g], its trajectories, and the training on them",
        style="dim",
        highlight=False,
    )
    path = store.join(experiment.name, PICTURE)
    store.write_atomic(path, draw(experiment, history))
    console.print(f"curves: {path}", soft_wrap=True)


def _table(experiment: Experiment, history: Sequence[GenerationRecord]) -> Table:
    benchmarks = list(dict.fromkeys(name for record in history for name in record.accuracy))
    stages = [name for name in STAGES.values() if any(name in record.seconds for record in history)]
    table = Table(title=f"{experiment.name}: {experiment.training.objective}, β = {experiment.training.beta:g}")
    for title in ("policy", "sampled reward %", *(f"{b} %" for b in benchmarks)):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("|res.|", "V(s_1)", "KL", "tokens", *(f"{s.removesuffix('_logprobs')} s" for s in stages)):
        table.add_column(title, justify="right")
    for record in history:
        training = record.training
        table.add_row(
            str(record.generation),
            record.reward.percent() if record.reward else "",
            *(record.accuracy[b].percent() if b in record.accuracy else "" for b in benchmarks),
            _number(training.get("residual_abs"), ".1f"),
            _number(training.get("value_first"), ".2f"),
            _number(record.kl, ".3f"),
            _number(record.sampling.get("response_tokens"), ",d"),
            *(_number(record.seconds.get(s), ".1f") for s in stages),
        )
    return table


def _number(value: Any, how: str) -> str:
    return "" if value is None else format(value, how)


def draw(experiment: Experiment, history: Sequence[GenerationRecord]) -> bytes:
    """The curves as PNG: reward and accuracy with 95% intervals, residual, V(s_1), KL, length, seconds."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(12, 6.5), dpi=110, layout="constrained")
    figure.suptitle(f"{experiment.name}: {experiment.training.objective}, β = {experiment.training.beta:g}")
    axes = figure.subplots(2, 3).ravel()
    _draw_success(axes[0], history)
    _draw_line(axes[1], history, "residual_abs", "|residual|, r/β units", "mean |Bellman residual|")
    _draw_line(axes[2], history, "value_first", "nats", "soft value V(s₁)")
    kl = [(r.generation, r.kl) for r in history if r.kl is not None]
    _plot(axes[3], kl, "nats a response", "KL to the reference, on its own samples")
    points = [(r.generation, r.sampling["mean_response_tokens"]) for r in history if r.sampling]
    _plot(axes[4], points, "tokens", "mean response length")
    _draw_seconds(axes[5], history)
    for axis in axes:
        axis.set_xlabel("generation")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
    buffer = io.BytesIO()
    # Without the library's version in it, the same history gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_success(axis: Any, history: Sequence[GenerationRecord]) -> None:
    series: dict[str, list[tuple[int, Interval]]] = {}
    for record in history:
        if record.reward:
            series.setdefault("sampled reward", []).append((record.generation, record.reward))
        for name, accuracy in record.accuracy.items():
            series.setdefault(name, []).append((record.generation, accuracy))
    for name, points in series.items():
        values = [i.value for _, i in points]
        finite = [(i.value - i.low, i.high - i.value) if math.isfinite(i.low) else (0.0, 0.0) for _, i in points]
        errors = list(zip(*finite, strict=True))
        axis.errorbar([g for g, _ in points], values, yerr=errors, marker="o", ms=3, capsize=2, label=name)
    axis.set_ylim(0, 1)
    axis.set_ylabel("share")
    axis.set_title("reward and accuracy, 95% intervals", fontsize=10)
    if series:
        axis.legend(fontsize=8, loc="lower right")


def _draw_line(axis: Any, history: Sequence[GenerationRecord], name: str, unit: str, title: str) -> None:
    _plot(axis, [(r.generation, r.training[name]) for r in history if name in r.training], unit, title)


def _plot(axis: Any, points: Sequence[tuple[int, Any]], unit: str, title: str) -> None:
    axis.plot([x for x, _ in points], [float(y) for _, y in points], marker="o", ms=3)
    axis.set_ylabel(unit)
    axis.set_title(title, fontsize=10)


def _draw_seconds(axis: Any, history: Sequence[GenerationRecord]) -> None:
    bottom = [0.0] * len(history)
    for stage in STAGES.values():
        heights = [record.seconds.get(stage, 0.0) for record in history]
        if any(heights):
            axis.bar([r.generation for r in history], heights, bottom=bottom, label=stage, width=0.7)
            bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    axis.set_ylabel("seconds")
    axis.set_title("wall time of the stages", fontsize=10)
    axis.legend(fontsize=7)
