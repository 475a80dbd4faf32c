"""The page of a study on trained policies: a table with intervals over seeds, a picture, the reading."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from assets.studies.exact import markdown_table
from assets.studies.statistics import last_rewards, over_seeds, shown


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
    figure = Figure(figsize=(5.5 * len(bases), 4), dpi=100, layout="constrained")
    for axis, base in zip(figure.subplots(1, len(bases), squeeze=False)[0], bases, strict=True):
        for color, arm in enumerate(a for a in results["arms"] if a["base"] == base):
            counts = [len(run["generations"]) for run in arm["runs"]]
            stats = [over_seeds(_rewards(arm, g)) for g in range(min(counts))]
            xs, means = list(range(len(stats))), [s["mean"] for s in stats]
            style = "o-" if color < 10 else "s--"
            axis.plot(xs, means, style, ms=3, color=f"C{color % 10}", label=arm["arm"])
            low, high = ([s[side] if math.isfinite(s[side]) else s["mean"] for s in stats] for side in ("low", "high"))
            axis.fill_between(xs, low, high, color=f"C{color % 10}", alpha=0.12, lw=0)
        axis.set(xlabel="generation", ylabel="sampled reward", ylim=(0, 1), title=base if len(bases) > 1 else "")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, ncols=1 + len(results["arms"]) // 8)
    return figure


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
