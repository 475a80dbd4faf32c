"""Pictures for the pages of the graph: the course of the experiment so far, and accuracy over generations.

They are drawn from the statistics of manifests alone, so that they cost the same however large the tables are.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.store import Store
from pipeline.store.manifest import MANIFEST, parse_manifest

Stats = Mapping[str, Any]
_SHOWN = 30
"""Generations in a picture: the newest ones."""
_Z95 = 1.96
_ACCURACY = "_accuracy"


@dataclass(frozen=True)
class Value:
    """A number of one generation with the ends of its 95% interval; without an interval all three are equal."""

    generation: int
    value: float
    low: float
    high: float


def training_plot(store: Store, name: str, generation: int) -> str:
    """Markdown image of sampled reward, |residual|, V(s_1), KL and the cosine up to trained_policy[`generation`]."""
    training = _stats(store, name, "trained_policy", generation)
    references = _stats(store, name, "ref_logprobs", generation)
    panels = [
        ("sampled reward", "mean r(τ)", _rewards(store, name, generation)),
        ("|Bellman residual|", "nats", _plain(training, "residual_abs")),
        ("soft value V(s₁)", "nats", _plain(training, "value_first")),
        ("KL to the reference", "nats a response", _plain(references, "behaviour_kl")),
        ("gradient against imitation's", "cosine", _plain(training, "control_cosine")),
    ]
    return _markdown([panel for panel in panels if panel[2]], "reward, residual, V and KL over generations")


def accuracy_plot(store: Store, name: str, generation: int) -> str:
    """Markdown image of each benchmark's accuracy with its 95% interval, up to policy[`generation`]."""
    series: dict[str, list[Value]] = {}
    for number, stats in _stats(store, name, "scores", generation).items():
        for key in stats:
            if key.endswith(_ACCURACY):
                ends = (100.0 * float(stats[part]) for part in (key, f"{key}_low", f"{key}_high"))
                series.setdefault(key.removesuffix(_ACCURACY), []).append(Value(number, *ends))
    panels = [(benchmark, "accuracy, %", values) for benchmark, values in series.items()]
    return _markdown(panels, "accuracy over generations")


def _stats(store: Store, name: str, table: str, last: int) -> dict[int, Stats]:
    """Statistics of the committed partitions of a table (or of trained policies) up to generation `last`."""
    found: dict[int, Stats] = {}
    for generation in range(max(0, last - _SHOWN + 1), last + 1):
        path = f"{store.join(name, table, f'generation={generation:04d}')}/{MANIFEST}"
        if store.fs.exists(path):
            found[generation] = parse_manifest(store.read_bytes(path).decode(), path).stats
    return found


def _rewards(store: Store, name: str, last: int) -> list[Value]:
    """Mean reward; the interval counts prompts, as if all responses to one prompt were the same: rather too wide."""
    found: list[Value] = []
    for generation, stats in _stats(store, name, "rewards", last).items():
        mean, spread = float(stats["reward_mean"]), float(stats["reward_std"])
        prompts = store.partition(name, "prompts", generation)
        half = _Z95 * spread / math.sqrt(max(prompts.manifest().rows, 1)) if prompts.is_committed() else 0.0
        found.append(Value(generation, mean, mean - half, mean + half))
    return found


def _plain(by_generation: Mapping[int, Stats], name: str) -> list[Value]:
    return [
        Value(generation, *[float(stats[name])] * 3) for generation, stats in by_generation.items() if name in stats
    ]


def _markdown(panels: Sequence[tuple[str, str, Sequence[Value]]], words: str) -> str:
    """One PNG of (title, unit, values) panels, four in a row."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    columns = min(max(len(panels), 1), 4)
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(3.3 * columns, 2.7 * rows), dpi=90, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis, (title, unit, values) in zip(axes, panels, strict=False):
        _draw(axis, values)
        axis.set_title(title, fontsize=9)
        axis.set_ylabel(unit, fontsize=8)
        axis.set_xlabel("generation", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return f"![{words}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"


def _draw(axis: Any, values: Sequence[Value]) -> None:
    errors = ([max(0.0, v.value - v.low) for v in values], [max(0.0, v.high - v.value) for v in values])
    xs, ys = [v.generation for v in values], [v.value for v in values]
    if any(end > 0 for ends in errors for end in ends):
        axis.errorbar(xs, ys, yerr=errors, marker="o", ms=3, capsize=2)
    else:
        axis.plot(xs, ys, marker="o", ms=3)
