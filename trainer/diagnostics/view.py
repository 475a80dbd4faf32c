"""The off-policy diagnostics of a generation for people: a table, and a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.diagnostics.numbers import PERCENTILES, SourceDiagnostics, Spread

COLUMNS = (
    *("source", "lag", "rows", "sampled", "reward", "residual", "± std", "Σ(θ-ref)", "± std"),
    *("log w 5%", "50%", "95%", "ESS", "of n", "χ²", "mean w"),
)
_SHOWN = tuple(PERCENTILES.index(p) for p in (5, 50, 95))


def cells(source: SourceDiagnostics) -> list[str]:
    """One row of the table, as text, in the order of COLUMNS; a dash where there are no behaviour log-probs."""
    first = [source.source, str(source.lag), f"{source.rows:,}", str(source.sampled), f"{source.reward:.3f}"]
    middle = [_short(v) for s in (source.residual, source.log_ratio_reference) for v in (s.mean, s.std)]
    found = source.coverage
    if found is None:
        return [*first, *middle, *["-"] * 7]
    points = [_short(found.log_ratio.percentiles[i]) for i in _SHOWN]
    weights = [f"{found.effective:.1f}", f"{found.effective_share:.1%}", _short(found.chi2), _short(found.mean_weight)]
    return [*first, *middle, *points, *weights]


def markdown(sources: Sequence[SourceDiagnostics]) -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(cells(source) for source in sources)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(sources: Sequence[SourceDiagnostics], path: Path) -> None:
    """Residuals, distance from the reference, and importance weights by source and lag, as a PNG."""
    from matplotlib.figure import Figure

    names = [f"{s.source}\nlag {s.lag}" for s in sources]
    figure = Figure(figsize=(12, 1.8 + 0.45 * len(sources)), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    _boxes(left, [s.residual for s in sources], "residual V + Σ(log π_θ - log π_ref) - r/β  [nats]")
    _boxes(middle, [s.log_ratio_reference for s in sources], "Σ(log π_θ - log π_ref)  [nats]")
    for place, source in enumerate(sources):
        found = source.coverage
        right.barh(place, found.effective_share if found else 0.0, color="#99bbdd", height=0.6)
        text = (
            f"ESS {found.effective:.0f} of {found.trajectories}, χ² {_short(found.chi2)}"
            if found
            else "no log-probs of μ"
        )
        right.text(0.02, place, text, va="center", fontsize=8)
    right.set(xlim=(0, 1), xlabel="effective share of the samples")
    left.set_yticks(range(len(sources)), names, fontsize=8)
    left.invert_yaxis()
    figure.savefig(path, dpi=90)


def _boxes(axes: Any, spreads: Sequence[Spread], label: str) -> None:
    """Percentiles 5, 25, 50, 75, 95 as boxes, the mean as a diamond."""
    stats = [
        {"whislo": low, "q1": q1, "med": median, "q3": q3, "whishi": high, "mean": s.mean, "fliers": []}
        for s in spreads
        for low, q1, median, q3, high in [s.percentiles]
    ]
    axes.bxp(stats, positions=range(len(stats)), orientation="horizontal", showmeans=True, meanprops={"marker": "d"})
    axes.axvline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set_xlabel(label, fontsize=9)


def _short(value: float) -> str:
    if abs(value) < 1e-6:
        return "0"
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.1e}"
