"""Curves with their intervals: as inline SVG of the report (`draw`), or as a figure of matplotlib (`panels`)."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 10, 38
COLOURS = 8
"""How many colours the style sheet has; later series repeat them with another dash."""


@dataclass(frozen=True)
class Point:
    """One value, with the ends of its 95% interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends, where both are there and finite."""
        if self.low is None or self.high is None or not math.isfinite(self.low + self.high):
            return None
        return self.low, self.high


@dataclass(frozen=True)
class Series:
    """`faint`: a thin line without marks, behind the others (single updates)."""

    name: str
    points: Sequence[Point]
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """What is to be seen. `floor` and `ceiling` are values that the y axis must reach."""

    title: str
    unit: str
    series: Sequence[Series]
    floor: float | None = None
    ceiling: float | None = None
    note: str = ""
    x_label: str = "generation"

    @property
    def is_empty(self) -> bool:
        return not any(_finite(one.points) for one in self.series)


@dataclass(frozen=True)
class Mark:
    """A point of the picture; `top` and `bottom` are the ends of its interval."""

    x: float
    y: float
    top: float | None
    bottom: float | None
    label: str


@dataclass(frozen=True)
class Line:
    name: str
    colour: int
    dash: int
    path: str
    marks: Sequence[Mark]
    faint: bool


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Drawing:
    """A chart with every place computed, in units of the picture."""

    chart: Chart
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]


def draw(chart: Chart) -> Drawing:
    """Lay out a chart that is not empty."""
    xs = [p.x for one in chart.series for p in _finite(one.points)]
    ys = [v for one in chart.series for v in _heights(one)]
    ys += [v for v in (chart.floor, chart.ceiling) if v is not None]
    y_ticks = nice_ticks(min(ys), max(ys))
    bottom, top = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))
    left, right = math.floor(min(xs)), max(xs)
    if left == right:
        left, right = left - 0.5, right + 0.5

    def x_at(x: float) -> float:
        return round(LEFT + 6 + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT - 12), 1)

    def y_at(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    lines: list[Line] = []
    colour = -1
    for one in chart.series:
        colour += not one.faint or colour < 0  # a faint series has the colour of the one before it
        shown = _finite(one.points)
        places = [(x_at(p.x), y_at(min(max(p.y, bottom), top))) for p in shown]
        path = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(places))
        marks = [] if one.faint else [_mark(p, one.name, x_at(p.x), y_at, bottom, top) for p in shown]
        lines.append(Line(one.name, colour % COLOURS, colour // COLOURS, path, marks, one.faint))
    return Drawing(
        chart,
        # Faint lines are drawn first, so that they lie behind the others.
        sorted(lines, key=lambda line: not line.faint),
        [Tick(x_at(x), f"{x:g}") for x in nice_ticks(left, right, whole=True) if left <= x <= right],
        [Tick(y_at(y), short(y)) for y in y_ticks],
    )


def panels(
    charts: Sequence[Chart], columns: int, size: tuple[float, float], title: str = "", bands: bool = False
) -> Any:
    """A matplotlib Figure with one panel of `size` inches a chart, `columns` in a row; `bands`: see `plot`."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    rows = math.ceil(len(charts) / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), dpi=100, layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, chart in zip(axes, charts, strict=False):
        colour = -1
        for one in chart.series:
            colour += not one.faint or colour < 0
            plot(axis, one, colour, bands)
        for end in (chart.floor, chart.ceiling):
            if end is not None:
                axis.axhline(end, lw=0)
        axis.set_title(chart.title, fontsize=10)
        axis.set(xlabel=chart.x_label, ylabel=chart.unit)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        if len(chart.series) > 1:
            axis.legend(fontsize=7, ncols=1 + len(chart.series) // 8)
    for axis in axes[len(charts) :]:
        axis.set_axis_off()
    return figure


def plot(axis: Any, series: Series, colour: int, band: bool = False) -> None:
    """Draw a series on an axis of matplotlib; its intervals as bars, or as a band where there are many points."""
    shown = _finite(series.points)
    xs, ys, look = [p.x for p in shown], [p.y for p in shown], f"C{colour % 10}"
    if series.faint:
        axis.plot(xs, ys, color=look, lw=0.6, alpha=0.5, label=series.name, zorder=1)
        return
    axis.plot(xs, ys, "o-" if colour < 10 else "s--", ms=3, color=look, label=series.name)
    lows, highs = zip(*(p.interval or (p.y, p.y) for p in shown), strict=True) if shown else ((), ())
    if band:
        axis.fill_between(xs, lows, highs, color=look, alpha=0.12, lw=0)
    else:
        axis.vlines(xs, lows, highs, color=look)


def png(figure: Any) -> bytes:
    """The file of a figure: the same figure gives the same bytes, since the library's version is not in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def nice_ticks(low: float, high: float, wanted: int = 5, whole: bool = False) -> list[float]:
    """Round numbers that enclose [low, high], about `wanted` of them; `whole` ones only where asked for."""
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number in at most about six characters."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def thinned(points: Sequence[Point], limit: int = 300) -> list[Point]:
    """At most `limit` points: means of neighbours, so that a long run stays a small picture."""
    size = math.ceil(len(points) / limit) if points else 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [Point(sum(p.x for p in g) / len(g), sum(p.y for p in g) / len(g)) for g in groups]


def _mark(point: Point, name: str, x: float, y_at: Callable[[float], float], bottom: float, top: float) -> Mark:
    label = f"{name}, {short(point.x)}: {short(point.y)}"
    if point.interval is None:
        return Mark(x, y_at(point.y), None, None, label)
    low, high = point.interval
    return Mark(
        x, y_at(point.y), y_at(min(high, top)), y_at(max(low, bottom)), f"{label} [{short(low)}, {short(high)}]"
    )


def _heights(series: Series) -> list[float]:
    """Values that the axis must hold. Of a faint series the middle 96%: one wild update would flatten the rest."""
    if series.faint:
        ys = sorted(p.y for p in _finite(series.points))
        return ys[len(ys) // 50 : len(ys) - len(ys) // 50]
    return [v for p in _finite(series.points) for v in (p.y, p.low, p.high) if v is not None and math.isfinite(v)]


def _finite(points: Sequence[Point]) -> list[Point]:
    return [p for p in points if math.isfinite(p.x + p.y)]
