"""`tbrm benchmarks`: what is known, what is there, and what differs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from evals.benchmarks.registry import known_benchmarks, load_problems_of, problems_hash
from evals.benchmarks.types import Benchmark, ProblemSource
from pipeline.errors import TbrmError
from pipeline.prompts import Problem
from pipeline.rewards.golds import not_understood

COMPARED_BY_VALUE = (None, "math_verify", "r1_format")
"""Verifiers of problems whose gold answers have to be understood; None is the experiment's."""


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


def print_listing(found: Sequence[Listed]) -> None:
    """The list for people."""
    from rich.table import Table

    from evals.report.terminal import print_table

    table = Table("name", "title", "rows", "content hash", "protocol", "from", "remarks")
    for one in found:
        known = one.benchmark
        protocol = known.protocol
        heat = "greedy" if not protocol.temperature else f"T={protocol.temperature:g}"
        rows = " or ".join(map(str, known.rows)) if one.rows is None else str(one.rows)
        flawed = f"{len(one.flawed)} cannot be answered as stated" if one.flawed else ""
        golds = f"{len(one.not_understood)} gold answers are not understood" if one.not_understood else ""
        table.add_row(
            known.name,
            known.title,
            rows,
            one.content_hash or known.content_hash or "",
            f"Avg@{protocol.samples} {heat}",
            known.origin,
            "; ".join(part for part in (one.differs, flawed, golds, *known.remarks) if part),
        )
    print_table(table)
