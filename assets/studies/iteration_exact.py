"""The exact half of the study `iteration`: direct optimization and iteration on the bandit and on layered MDPs."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from assets.studies.bandit import choices, descend
from assets.studies.descent import Method, best_curve
from assets.studies.statistics import over_seeds
from pipeline.config.training import ObjectiveName

OBJECTIVES: tuple[ObjectiveName, ...] = ("tbrm", "tbrm_iterative", "sql_single", "sql_multi")
REFRESH = (10, 100)
_STEPS = (0, 10, 30, 100, 300, 1_000)
_RATE = 0.01
_CLASSES: tuple[Literal["line", "table"], ...] = ("line", "table")


def run_iteration(seeds: Sequence[int], told: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Every number of the exact half. `told` hears of each finished part."""
    result = {
        "seeds": list(seeds),
        "steps": _STEPS,
        "choices_of_two": {o: choices(o) for o in OBJECTIVES},
        "bandit": [_bandit(o, kind, k, seeds) for kind in _CLASSES for o in OBJECTIVES[:2] for k in _refreshed(o)],
    }
    told("bandit")
    curves = list[dict[str, Any]]()
    for sampled in (False, True):
        for objective in OBJECTIVES:
            for refresh in _refreshed(objective):
                method = Method(objective, refresh, sampled)
                curves.append(
                    {"objective": objective, "refresh": refresh, "sampled": sampled} | over_mdps(method, seeds, _STEPS)
                )
                told(f"{objective}, {'sampled' if sampled else 'exact'} gradients, iterations of {refresh} steps")
    return result | {"layered": curves}


def over_mdps(method: Method, seeds: Sequence[int], steps: tuple[int, ...]) -> dict[str, Any]:
    """Mean curve of the share of the gap that is left, its intervals, and the step sizes that did best."""
    curves = [best_curve(method, seed, steps) for seed in seeds]
    return {
        "left": [over_seeds([c.gaps[i] for c in curves]) for i in range(len(steps))],
        "rates": [c.rate for c in curves],
    }


def _bandit(
    objective: ObjectiveName, kind: Literal["line", "table"], refresh: int, seeds: Sequence[int]
) -> dict[str, Any]:
    exact = descend(objective, kind, _STEPS[-1], refresh, _RATE)
    sampled = [descend(objective, kind, _STEPS[-1], refresh, _RATE, seed) for seed in seeds]
    return {
        "objective": objective,
        "class": kind,
        "refresh": refresh,
        "exact": [exact[step] for step in _STEPS],
        "sampled": [over_seeds([gaps[step] for gaps in sampled]) for step in _STEPS],
    }


def _refreshed(objective: ObjectiveName) -> tuple[int, ...]:
    """TBRM has no target to refresh."""
    return (1,) if objective == "tbrm" else REFRESH
