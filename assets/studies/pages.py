"""The pages of studies: numbers over seeds, their tables and pictures, and the page of a study on tables."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure

from evals.report.chart import Chart, Point, Series, panels
from evals.statistics.intervals import mean_interval
from pipeline.markdown import markdown_table

Told = Callable[[str], None]
SEGMENTS = {
    "seconds_rollout": "rollout",
    "seconds_ref_prob": "reference",
    "seconds_old_prob": "old log-probs",
    "seconds_ppo_value": "critic's values",
    "seconds_ppo_update_value": "critic's update",
    "seconds_update_policy": "policy's update",
}


@dataclass(frozen=True)
class ExactStudy:
    """One study: its numbers, and how they are shown."""

    name: str
    title: str
    claim: str
    """What the paper says, in a sentence or two."""
    seeds: int
    run: Callable[[Sequence[int], Told], dict[str, Any]]
    """(seeds, told of progress) to every number of the page."""
    tables: Callable[[dict[str, Any]], str]
    """Markdown of the tables, and what they show in words whose figures come from the numbers."""
    figure: Callable[[dict[str, Any]], Figure]


def write_page(study: ExactStudy, folder: Path, told: Told) -> list[Path]:
    """Run the study and write NAME.json, NAME.png and NAME.md into `folder`; returns them."""
    started = time.process_time()
    results = study.run(range(study.seeds), told)
    results = {"study": study.name, "cpu_seconds": round(time.process_time() - started)} | results
    folder.mkdir(parents=True, exist_ok=True)
    data, picture, page = (folder / f"{study.name}.{suffix}" for suffix in ("json", "png", "md"))
    data.write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")
    draw_page(study, folder)
    return [data, picture, page]


def draw_page(study: ExactStudy, folder: Path) -> None:
    """Write the picture and the page from the committed numbers."""
    results = json.loads((folder / f"{study.name}.json").read_text(encoding="utf-8"))
    study.figure(results).savefig(folder / f"{study.name}.png", metadata={"Software": None})
    text = [
        f"# {study.title}",
        f"**Claim.** {study.claim}",
        f"```\ntbrm study {study.name} --size tiny\n```",
        f"{study.seeds} seeds, {results['cpu_seconds']} s of one CPU core; intervals are 95% over seeds. No model "
        f"and no store take part: policies are tables in float64, scored by the losses that train models. "
        f"All numbers: [{study.name}.json]({study.name}.json).",
        f"![{study.title}]({study.name}.png)",
        study.tables(results),
    ]
    (folder / f"{study.name}.md").write_text("\n\n".join(text).rstrip() + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Floats to five digits, so that the committed file is small and differences can be read."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in cast(dict[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in cast(Sequence[Any], value)]
    return value


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Mean and its 95% Student interval, as it goes into a study's JSON."""
    interval = mean_interval(np.array(values, dtype=np.float64))
    return {"mean": interval.value, "low": interval.low, "high": interval.high}


def last_rewards(arm: dict[str, Any]) -> list[float]:
    """What the last policy of every run of an arm earns; a run that diverged counts with the last policy it had."""
    return _rewards(arm, -1)


def shown(stats: dict[str, Any], digits: int = 2) -> str:
    """`-0.96 [-1.02, -0.90]`."""
    return f"{stats['mean']:.{digits}f} [{stats['low']:.{digits}f}, {stats['high']:.{digits}f}]"


def agreement(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line in all, then one an arm whose last policy earns something else than before.

    Two means over seeds agree when their difference is not larger than the 95% half-width √(w² + w'²) of that
    difference; by chance alone one arm in twenty does not. Arms that only one of the two has are not compared.
    """
    old = {arm["arm"]: over_seeds(last_rewards(arm)) for arm in before["arms"]}
    new = {arm["arm"]: over_seeds(last_rewards(arm)) for arm in now["arms"] if arm["arm"] in old}
    apart = [name for name in new if not _agree(old[name], new[name])]
    if not new:
        return []
    told = [f"{len(new) - len(apart)} of {len(new)} arms earn what they earned before, within 95% intervals over seeds"]
    means = ((name, old[name]["mean"], new[name]["mean"]) for name in apart)
    return told + [f"  {name}: {was:.3f} before, {is_now:.3f} now" for name, was, is_now in means]


def _agree(old: dict[str, float], new: dict[str, float]) -> bool:
    width = math.hypot(old["high"] - old["mean"], new["high"] - new["mean"])
    return not abs(new["mean"] - old["mean"]) > width  # one seed has no interval: nothing to say against it


def arms_table(results: dict[str, Any], compare: str | None, needs: Mapping[str, str] | None = None) -> str:
    """One line an arm: reward of the first and the last policy, the difference to `compare` by seed, KL and V.

    KL is that of the last policy from the reference, on its own samples. `needs` adds a column of words by arm.
    """
    reference = next((a for a in results["arms"] if a["arm"] == compare), None)
    head = ["arm", "policy[0]", "last policy", f"less {compare}", "KL to π_ref", "V(s_1)", "diverged", "needs"]
    rows = [
        [
            arm["arm"],
            f"{_mean(_rewards(arm, 0)):.3f}",
            shown(over_seeds(last_rewards(arm)), 3),
            _difference(arm, reference),
            _number(_trained(arm, "kl"), 2),
            _number(_trained(arm, "value_first"), 1),
            f"{sum(run['diverged'] is not None for run in arm['runs'])} of {len(arm['runs'])}",
            (needs or {}).get(arm["arm"], ""),
        ]
        for arm in results["arms"]
    ]
    left_out = {name for name, there in (("needs", needs), (f"less {compare}", reference)) if there is None}
    left_out |= {"KL to π_ref"} if not any(_trained(arm, "kl") for arm in results["arms"]) else set()
    kept = [i for i, name in enumerate(head) if name not in left_out]
    return markdown_table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])


def arms_figure(results: dict[str, Any]) -> Figure:
    """Mean reward by generation, with the interval over seeds, of every arm."""
    bases = list(dict.fromkeys(arm["base"] for arm in results["arms"]))
    charts = [
        Chart(
            base if len(bases) > 1 else "",
            "sampled reward",
            [Series(arm["arm"], _course(arm)) for arm in results["arms"] if arm["base"] == base],
            floor=0.0,
            ceiling=1.0,
        )
        for base in bases
    ]
    return panels(charts, len(charts), (5.5, 4), bands=True)


def _course(arm: dict[str, Any]) -> list[Point]:
    """Mean reward by generation, as far as every run of the arm came."""
    last = min(len(run["generations"]) for run in arm["runs"])
    return [point_of(g, over_seeds(_rewards(arm, g))) for g in range(last)]


def point_of(x: float, stats: dict[str, float]) -> Point:
    """What `over_seeds` found, at `x`."""
    return Point(x, stats["mean"], stats["low"], stats["high"])


def _rewards(arm: dict[str, Any], generation: int) -> list[float]:
    return [run["generations"][generation]["reward"] for run in arm["runs"]]


def _trained(arm: dict[str, Any], name: str) -> list[float]:
    return [
        [row[name] for row in run["generations"] if name in row][-1]
        for run in arm["runs"]
        if any(name in row for row in run["generations"])
    ]


def _difference(arm: dict[str, Any], reference: dict[str, Any] | None) -> str:
    if reference is None or arm is reference:
        return "-"
    return shown(over_seeds([a - b for a, b in zip(last_rewards(arm), last_rewards(reference), strict=True)]), 3)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _number(values: list[float], digits: int) -> str:
    """The mean, or `-` where the objective has no such number."""
    mean = _mean(values)
    return f"{mean:.{digits}f}" if math.isfinite(mean) else "-"


def costs_table(results: dict[str, Any], compare: str | None) -> str:
    """One line an arm: mean seconds of a generation by segment, their sum with its interval, and peak memory."""
    reference = next((arm for arm in results["arms"] if arm["arm"] == compare), None)
    segments = _segments(results)
    head = ["arm", *(f"{words} s" for words in segments.values()), "all s", "peak GB", f"time over {compare}", "memory"]
    rows = list[list[str]]()
    for arm in results["arms"]:
        seconds, memory = over_seeds(_totals(arm)), over_seeds(_peaks(arm))
        over = ("-", "-")
        if reference is not None and arm is not reference:
            base = over_seeds(_totals(reference))["mean"], over_seeds(_peaks(reference))["mean"]
            over = f"{seconds['mean'] / base[0]:.2f}", f"{memory['mean'] / base[1]:.2f}"
        parts = (f"{over_seeds(_seconds(arm, name))['mean']:.2f}" for name in segments)
        rows.append([arm["arm"], *parts, shown(seconds, 1), shown(memory), *over])
    return markdown_table(head, rows)


def costs_figure(results: dict[str, Any]) -> Figure:
    """Stacked seconds and peak memory of every arm."""
    names = [arm["arm"] for arm in results["arms"]]
    figure = Figure(figsize=(10, 1.2 + 0.45 * len(names)), dpi=100, layout="constrained")
    time, memory = figure.subplots(1, 2, sharey=True)
    left = [0.0] * len(names)
    for name, words in _segments(results).items():
        means = [over_seeds(_seconds(arm, name))["mean"] for arm in results["arms"]]
        time.barh(names, means, left=left, label=words)
        left = [a + b for a, b in zip(left, means, strict=True)]
    time.set_xlabel("seconds a generation")
    time.legend(fontsize=7)
    time.invert_yaxis()
    peaks = [over_seeds(_peaks(arm)) for arm in results["arms"]]
    ends = [[p["mean"] - p["low"] for p in peaks], [p["high"] - p["mean"] for p in peaks]]
    memory.barh(names, [p["mean"] for p in peaks], xerr=ends, color="grey")
    memory.set_xlabel("peak memory of the training process, GB")
    return figure


def _segments(results: dict[str, Any]) -> dict[str, str]:
    """Those that some arm spent time in."""
    return {n: words for n, words in SEGMENTS.items() if any(any(_seconds(arm, n)) for arm in results["arms"])}


def _seconds(arm: dict[str, Any], name: str) -> list[float]:
    """By seed: mean over the trained generations."""
    trained = [[row[name] for row in run["generations"] if name in row] for run in arm["runs"]]
    return [sum(seconds) / len(seconds) if seconds else 0.0 for seconds in trained]


def _totals(arm: dict[str, Any]) -> list[float]:
    return [sum(parts) for parts in zip(*(_seconds(arm, name) for name in SEGMENTS), strict=True)]


def _peaks(arm: dict[str, Any]) -> list[float]:
    return [max(row["peak_memory_gb"] for row in run["generations"] if "peak_memory_gb" in row) for run in arm["runs"]]


def sources_table(results: dict[str, Any], compare: str | None) -> str:
    """One line an arm: reward of its last policy on each task and on all, with intervals over seeds.

    The first line is policy[0] of all runs; the last column is the difference in all to `compare`, by seed.
    """
    runs = [run for arm in results["arms"] for run in arm["runs"]]
    tasks = sorted(runs[0]["generations"][0]["reward_by_source"])
    reference = next((arm for arm in results["arms"] if arm["arm"] == compare), None)
    rows = [["policy[0]", *_cells(runs, 0, tasks), "-"]]
    for arm in results["arms"]:
        difference = "-"
        if reference is not None and arm is not reference:
            pairs = zip(last_rewards(arm), last_rewards(reference), strict=True)
            difference = shown(over_seeds([own - other for own, other in pairs]))
        rows.append([arm["arm"], *_cells(arm["runs"], -1, tasks), difference])
    return markdown_table(["", *tasks, "all", f"less {compare}"], rows)


def _cells(runs: list[dict[str, Any]], generation: int, tasks: list[str]) -> list[str]:
    by_task = ([run["generations"][generation]["reward_by_source"][task] for run in runs] for task in tasks)
    return [shown(over_seeds(values)) for values in (*by_task, _rewards({"runs": runs}, generation))]
