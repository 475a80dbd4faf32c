"""`tbrm benchmarks`: what is known, what is there, and what differs."""

from collections.abc import Sequence
from dataclasses import dataclass

from evals.benchmarks.registry import known_benchmarks, load_problems_of, problems_hash
from evals.benchmarks.types import Benchmark, ProblemSource
from pipeline.errors import TbrmError


@dataclass(frozen=True)
class Listed:
    """One benchmark; `rows` and `content_hash` are those found, None where the problems were not loaded."""

    benchmark: Benchmark
    rows: int | None
    content_hash: str | None
    differs: str
    flawed: dict[str, str]
    """Why, by problem id."""

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
    return Listed(benchmark, len(problems), found, remark, flawed)


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
        table.add_row(
            known.name,
            known.title,
            rows,
            one.content_hash or known.content_hash or "",
            f"Avg@{protocol.samples} {heat}",
            known.origin,
            "; ".join(part for part in (one.differs, flawed, *known.remarks) if part),
        )
    print_table(table)
