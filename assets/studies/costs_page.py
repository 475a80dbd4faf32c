"""The page of a study on costs: seconds of an update by the paper's segments, and peak memory, of every arm."""

from typing import Any

from matplotlib.figure import Figure

from assets.studies.exact import markdown_table
from assets.studies.statistics import over_seeds, shown

SEGMENTS = {
    "seconds_rollout": "rollout",
    "seconds_ref_prob": "reference",
    "seconds_old_prob": "old log-probs",
    "seconds_ppo_value": "critic's values",
    "seconds_ppo_update_value": "critic's update",
    "seconds_update_policy": "policy's update",
}


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
