"""The registry: every benchmark and suite known by name, and how what a folder holds differs from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evals.benchmarks.gym import GYM
from evals.benchmarks.six import SIX
from evals.benchmarks.types import GREEDY, Benchmark, ProblemSource
from evals.benchmarks.user import read_definition
from pipeline.config.evaluation import Protocol
from pipeline.errors import ConfigError, TbrmError, did_you_mean
from pipeline.prompts import Problem, heldout_problems
from pipeline.rewards.golds import not_understood
from pipeline.store import text_hash

HELDOUT_SAMPLES = 4
COMPARED_BY_VALUE = (None, "math_verify", "r1_format")
"""Verifiers of problems whose gold answers have to be understood; None is the experiment's."""


def _heldout(source: ProblemSource) -> list[Problem]:
    if source.experiment is None:
        raise TbrmError("the benchmark heldout belongs to an experiment: add --experiment")
    return heldout_problems(source.experiment)


_HELDOUT = (
    Benchmark("heldout", "Held-out problems, greedy", _heldout, GREEDY, "the experiment's prompt source"),
    Benchmark(
        "heldout_sampled",
        "Held-out problems, sampled",
        _heldout,
        Protocol(benchmark="heldout", samples=HELDOUT_SAMPLES, temperature=1.0),
        "the experiment's prompt source",
    ),
)
SUITES: Mapping[str, tuple[str, ...]] = {
    "paper": tuple(benchmark.name for benchmark in SIX),
    "reasoning_gym": tuple(benchmark.name for benchmark in GYM),
}
"""Names that stand for several benchmarks."""


def known_benchmarks(folder: str | None = None) -> dict[str, Benchmark]:
    """Every benchmark by name: the built-in ones and those that a YAML file in `folder` defines. Raises ConfigError."""
    known = {benchmark.name: benchmark for benchmark in (*SIX, *GYM, *_HELDOUT)}
    for path in sorted(Path(folder).glob("*.yaml")) if folder else ():
        found = read_definition(path)
        if found.name in known or found.name in SUITES:
            raise ConfigError(f"{path}: the name {found.name!r} is taken; choose another")
        known[found.name] = found
    return known


def find_benchmark(name: str, folder: str | None = None) -> Benchmark:
    """A benchmark by name, or by the path of the YAML file that defines it. Raises TbrmError naming those there are."""
    if name.endswith((".yaml", ".yml")):
        return read_definition(Path(name))
    known = known_benchmarks(folder)
    if name not in known:
        named = (*known, *SUITES)
        raise TbrmError(f"there is no benchmark {name!r}.{did_you_mean(name, named)} There are {', '.join(named)}")
    return known[name]


def load_problems_of(benchmark: Benchmark, source: ProblemSource) -> list[Problem]:
    """Its problems. Raises TbrmError when their number is not that of any known form of the benchmark."""
    problems = benchmark.load(source)
    if benchmark.rows and len(problems) not in benchmark.rows:
        expected = " or ".join(map(str, benchmark.rows))
        raise TbrmError(
            f"benchmark {benchmark.name} has {len(problems)} problems, expected {expected}: the source holds another "
            "set. Correct it, or define it as a benchmark of its own (docs/evaluation.md)"
        )
    return problems


def problems_hash(problems: list[Problem]) -> str:
    """Content hash of a problem set: ids, questions and answers in their order; 16 hex digits."""
    return text_hash("\x1e".join("\x1f".join((p.id, p.text, p.answer)) for p in problems))[:16]


@dataclass(frozen=True)
class Listed:
    """One benchmark; `rows` and `content_hash` are those found, None where the problems were not loaded."""

    benchmark: Benchmark
    rows: int | None
    content_hash: str | None
    differs: str
    flawed: dict[str, str]
    """Why, by problem id."""
    not_understood: dict[str, str] = field(default_factory=dict[str, str])
    """Why the gold answer of a problem is not wholly understood, by problem id: only the same text is right there."""

    def to_json(self) -> dict[str, object]:
        known = self.benchmark
        return {
            "name": known.name,
            "title": known.title,
            "origin": known.origin,
            "protocol": known.protocol.model_dump(exclude_none=True),
            "expected_rows": list(known.rows),
            "expected_hash": known.content_hash,
            "rows": self.rows,
            "content_hash": self.content_hash,
            "differs": self.differs,
            "flawed": self.flawed,
            "not_understood": self.not_understood,
            "our_golds": {name: list(forms) for name, forms in known.golds.items()},
            "remarks": list(known.remarks),
        }


def list_benchmarks(folder: str | None) -> list[Listed]:
    """Every known benchmark. Without a folder nothing is loaded, and so nothing downloaded. Raises ConfigError."""
    return [_listed(benchmark, folder) for benchmark in known_benchmarks(folder).values()]


def _listed(benchmark: Benchmark, folder: str | None) -> Listed:
    if folder is None:
        return Listed(benchmark, None, None, "", {})
    try:
        problems = load_problems_of(benchmark, ProblemSource(folder))
    except TbrmError as error:
        return Listed(benchmark, None, None, str(error), {})
    found = problems_hash(problems)
    differs = benchmark.content_hash is not None and found != benchmark.content_hash
    flawed = {problem.id: reason for problem in problems if (reason := benchmark.flaw(problem))}
    remark = f"problems {found}, our figures are made with {benchmark.content_hash}" if differs else ""
    return Listed(benchmark, len(problems), found, remark, flawed, _not_understood(benchmark, problems))


def _not_understood(benchmark: Benchmark, problems: list[Problem]) -> dict[str, str]:
    compared = [p for p in benchmark.with_our_golds(problems) if p.verifier in COMPARED_BY_VALUE]
    reasons = not_understood(problem.answer for problem in compared)
    return {problem.id: reasons[problem.answer] for problem in compared if problem.answer in reasons}
