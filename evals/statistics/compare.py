"""Two policies on the same problems: the difference of their accuracies, and whether chance explains it."""

from dataclasses import dataclass

from evals.statistics.intervals import LEVEL, Interval, accuracy_interval, difference_interval
from evals.statistics.scores import Scores, read_scores
from pipeline.errors import TbrmError
from pipeline.store import Store


@dataclass(frozen=True)
class Comparison:
    """`difference` is B minus A, over the problems that both answered."""

    benchmark: str
    a: Interval
    b: Interval
    difference: Interval
    problems: int
    remarks: tuple[str, ...]

    @property
    def separated(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return not self.difference.low <= 0 <= self.difference.high

    def to_json(self) -> dict[str, object]:
        return {
            "benchmark": self.benchmark,
            "problems": self.problems,
            **{name: vars(interval) for name, interval in (("a", self.a), ("b", self.b))},
            "difference": vars(self.difference),
            "separated": self.separated,
            "remarks": list(self.remarks),
        }


def compare_scores(a: Scores, b: Scores) -> Comparison:
    """Compare two policies on one benchmark. Raises TbrmError when they have no problem in common."""
    row_of = {problem: row for row, problem in enumerate(b.problem_ids)}
    pairs = [(row, row_of[problem]) for row, problem in enumerate(a.problem_ids) if problem in row_of]
    if not pairs:
        raise TbrmError(f"benchmark {a.benchmark}: the two policies have no problem in common")
    left = a.correct[[row for row, _ in pairs]]
    right = b.correct[[row for _, row in pairs]]
    remarks: list[str] = []
    if len(pairs) < max(len(a.problem_ids), len(b.problem_ids)):
        remarks.append(f"only the {len(pairs)} problems that both answered")
    differing = sorted(name for name in a.protocol if a.protocol[name] != b.protocol.get(name))
    if differing:
        remarks.append("protocols differ in " + ", ".join(differing))
    remarks += a.differs_from(b)
    return Comparison(
        benchmark=a.benchmark,
        a=accuracy_interval(left),
        b=accuracy_interval(right),
        difference=difference_interval(left, right),
        problems=len(pairs),
        remarks=tuple(remarks),
    )


def compare_policies(
    store: Store, a: tuple[str, int], b: tuple[str, int], label: str | None = None
) -> list[Comparison]:
    """Every benchmark that both (dataset, generation) were scored on. Raises TbrmError when there is none."""
    left, right = (read_scores(store, dataset, generation, label) for dataset, generation in (a, b))
    common = [name for name in left if name in right]
    if not common:
        raise TbrmError(f"no common benchmark: {', '.join(left)} and {', '.join(right)}; run `tbrm evaluate` first")
    return [compare_scores(left[name], right[name]) for name in common]


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
