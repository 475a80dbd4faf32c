"""What `tbrm run` ends with: a table of the generations and a picture of the curves."""

import io
import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from evals.report.history import STAGES, GenerationRecord, read_history
from evals.statistics.intervals import Interval
from pipeline.config import Experiment
from pipeline.console import PlainConsole
from pipeline.store import Store

PICTURE = "curves.png"


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
