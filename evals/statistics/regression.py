"""Has a policy become worse than an earlier one, beyond what chance explains?"""

from dataclasses import dataclass

from evals.run.scores import Scores, read_scores
from evals.statistics.intervals import LEVEL, Interval, difference_interval
from pipeline.store import Store


@dataclass(frozen=True)
class AgainstBest:
    """One benchmark: the policy beside the best earlier one. `difference` is now minus best, on the same problems."""

    benchmark: str
    now: float
    best: float
    best_generation: int
    difference: Interval

    @property
    def is_worse(self) -> bool:
        """Whether even the upper end of the difference lies below 0."""
        return self.difference.high < 0

    def __str__(self) -> str:
        ends = f"[{self.difference.low:+.3f}, {self.difference.high:+.3f}]"
        return (
            f"{self.benchmark} {self.now:.3f}, best before {self.best:.3f} by policy[{self.best_generation}]: "
            f"{self.difference.value:+.3f} {ends}"
        )


def against_best(store: Store, dataset: str, generation: int) -> list[AgainstBest]:
    """policy[`generation`] beside the best earlier policy of its experiment, by benchmark.

    Only scores by the same protocol, verifier, engine, template and problems are compared. The best of m policies on
    one of B benchmarks is partly the luckiest, and each is a chance of a false alarm: the interval's level is
    1 - 0.05/(m·B) (Bonferroni).
    """
    current = read_scores(store, dataset, generation)
    earlier = [(g, read_scores(store, dataset, g)) for g in store.generations(dataset, "scores") if g < generation]
    found: list[AgainstBest] = []
    for name, now in current.items():
        rivals = [
            (float(past[name].correct.mean()), g, past[name]) for g, past in earlier if _same(past.get(name), now)
        ]
        if not rivals:
            continue
        best, best_generation, scores = max(rivals, key=lambda rival: rival[:2])
        level = 1 - (1 - LEVEL) / (len(rivals) * len(current))
        difference = difference_interval(scores.correct, now.correct, level)
        found.append(AgainstBest(name, float(now.correct.mean()), best, best_generation, difference))
    return found


def _same(past: Scores | None, now: Scores) -> bool:
    return (
        past is not None
        and dict(past.protocol) == dict(now.protocol)
        and past.problem_ids == now.problem_ids
        and not past.differs_from(now)
    )
