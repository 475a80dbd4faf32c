"""Two policies on the same problems: the difference of their accuracies with its interval."""

from dataclasses import dataclass

from evals.run.scores import Scores, read_scores
from evals.statistics.intervals import Interval, accuracy_interval, difference_interval
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
