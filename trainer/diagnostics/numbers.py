"""How well stored trajectories suit the policy that is about to train on them: numbers by source and lag.

TBRM needs no importance weights, but its sample efficiency still depends on coverage (Eq. 6). Where the behaviour
policy μ left its log-probs, the weights w = π_θ(τ)/μ(τ) of whole responses measure it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from pipeline.errors import StoreError
from pipeline.markdown import markdown_table
from pipeline.store import Store, seed_of

if TYPE_CHECKING:
    from pipeline.scoring.batch import Trajectory  # torch, which a reader of the figures does not need


DIAGNOSTICS_FILE, PLOT_FILE = "diagnostics.json", "diagnostics.png"
PERCENTILES = (5, 25, 50, 75, 95)
Floats = npt.NDArray[np.float64]
Key = tuple[str, int]
"""(source, lag)"""


@dataclass(frozen=True)
class Spread:
    """A quantity over the sampled trajectories."""

    mean: float
    std: float
    percentiles: tuple[float, ...]
    """At PERCENTILES."""


@dataclass(frozen=True)
class Coverage:
    """π_θ against the behaviour policy μ, from trajectories that have μ's log-probs."""

    trajectories: int
    log_ratio: Spread
    """log w = Σ_h (log π_θ - log μ), in nats."""
    effective: float
    """Effective sample size (Σw)² / Σw²: n where π_θ = μ, 1 where one trajectory has all the weight."""
    effective_share: float
    """Effective sample size over n."""
    chi2: float
    """χ²(π_θ ‖ μ) = E_μ[w²] - 1, estimated with self-normalized weights as n/effective - 1; at most n - 1."""
    mean_weight: float
    """Mean of w, which is 1 in expectation. Far below 1 the sample misses what π_θ does, and χ² is underestimated."""


@dataclass(frozen=True)
class SourceDiagnostics:
    """One source and lag of a training mix, at the policy before its first update."""

    source: str
    """`generation`, or the name of the logged data set."""
    lag: int
    rows: int
    """Trajectories of this source and lag in the mix."""
    sampled: int
    """Trajectories that the figures below are computed from."""
    reward: float
    """Mean outcome reward."""
    value_first: float
    """Mean V_θ(s_1), in nats."""
    residual: Spread
    """Trajectory Bellman residual of Eq. 4, V_θ(s_1) + Σ_h (log π_θ - log π_ref) - r/β."""
    log_ratio_reference: Spread
    """Σ_h (log π_θ - log π_ref) of a trajectory, in nats."""
    coverage: Coverage | None
    """None where no trajectory has behaviour log-probs, as in most logs of others."""


_SOURCES = TypeAdapter(list[SourceDiagnostics])


def choose_rows(
    sources: Mapping[Key, npt.NDArray[np.int64]], limit: int, seed: int
) -> dict[Key, npt.NDArray[np.int64]]:
    """At most `limit` rows of each source and lag, drawn by the seed, ascending."""
    chosen: dict[Key, npt.NDArray[np.int64]] = {}
    for (source, lag), rows in sources.items():
        rng = np.random.default_rng(seed_of(seed, "diagnostics", source, lag))
        chosen[source, lag] = np.sort(rng.choice(rows, min(limit, len(rows)), replace=False))
    return chosen


def diagnose(
    key: Key,
    rows: int,
    trajectories: Sequence["Trajectory"],
    logprobs: Floats,
    values: Floats,
    beta: float,
    offset: bool,
) -> SourceDiagnostics:
    """The figures of one source from Σ_h log π_θ(a_h|s_h) and V_θ(s_1), each [n], of its n sampled trajectories.

    `offset` subtracts V_ref(s_1) in the residual, as `training.value_offset: reference` does.
    """
    rewards = np.array([t.reward for t in trajectories])
    reference = _sums(t.ref_logprobs[t.response_mask] for t in trajectories)
    shift = np.array([t.ref_value_first if offset else 0.0 for t in trajectories], dtype=np.float64)
    ratio = logprobs - reference
    known = [i for i, t in enumerate(trajectories) if t.behavior_logprobs is not None]
    behaviour = _sums(_behaviour(trajectories[i]) for i in known)
    return SourceDiagnostics(
        source=key[0],
        lag=key[1],
        rows=rows,
        sampled=len(trajectories),
        reward=float(rewards.mean()),
        value_first=float(values.mean()),
        residual=spread(values - shift + ratio - rewards / beta),
        log_ratio_reference=spread(ratio),
        coverage=coverage(logprobs[known] - behaviour) if known else None,
    )


def coverage(log_ratio: Floats) -> Coverage:
    """Importance-weight figures from log w [n]. Computed from log w - max log w: no response is too long for it."""
    count, top = len(log_ratio), float(log_ratio.max())
    weights = np.exp(log_ratio - top)
    effective = float(weights.sum() ** 2 / np.square(weights).sum())
    return Coverage(
        trajectories=count,
        log_ratio=spread(log_ratio),
        effective=effective,
        effective_share=effective / count,
        chi2=count / effective - 1,
        mean_weight=float(np.exp(min(top + np.log(weights.mean()), 700.0))),  # exp(700) is finite
    )


def spread(values: Floats) -> Spread:
    points = np.percentile(values, PERCENTILES).tolist()
    return Spread(float(values.mean()), float(values.std()), tuple(points))


def to_json(found: Iterable[SourceDiagnostics], config_hash: str, limit: int) -> str:
    """Content of diagnostics.json."""
    tree = {"config_hash": config_hash, "sample_per_source": limit, "percentiles": PERCENTILES}
    return json.dumps(tree | {"sources": [asdict(source) for source in found]}, indent=1) + "\n"


def read_diagnostics(store: Store, dataset: str, generation: int) -> list[SourceDiagnostics] | None:
    """Diagnostics beside trained_policy[generation]; None where it has none. Raises StoreError for a damaged file."""
    path = f"{store.join(dataset, 'trained_policy', f'generation={generation:04d}')}/{DIAGNOSTICS_FILE}"
    try:
        return parse_diagnostics(json.loads(store.read_bytes(path)))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error!r}): train the generation again with --replace") from error


def parse_diagnostics(tree: dict[str, Any]) -> list[SourceDiagnostics]:
    """The inverse of `to_json`. Raises ValueError or KeyError for another tree."""
    return _SOURCES.validate_python(tree["sources"])


def _behaviour(trajectory: "Trajectory") -> npt.NDArray[np.floating[Any]]:
    assert trajectory.behavior_logprobs is not None
    return trajectory.behavior_logprobs[trajectory.response_mask]


def _sums(parts: Iterable[npt.NDArray[np.floating[Any]]]) -> Floats:
    return np.array([part.sum(dtype=np.float64) for part in parts], dtype=np.float64)


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
    return markdown_table(COLUMNS, (cells(source) for source in sources))


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
