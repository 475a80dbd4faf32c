"""`tbrm benchmarks`: what is known, what is there, and what differs."""

from collections.abc import Sequence
from dataclasses import dataclass

from evals.benchmarks.registry import REGISTRY, problems_hash
from evals.benchmarks.types import Benchmark, ProblemSource
from pipeline.errors import TbrmError


@dataclass(frozen=True)
class Listed:
    """One benchmark; `rows` and `content_hash` are those found, None where the problems were not loaded."""

    benchmark: Benchmark
    rows: int | None
    content_hash: str | None
    differs: str

    def to_json(self) -> dict[str, object]:
        known = self.benchmark
        return {
            "name": known.name,
            "title": known.title,
            "origin": known.origin,
            "protocol": known.protocol.model_dump(exclude_none=True),
            "expected_rows": known.rows,
            "expected_hash": known.content_hash,
            "rows": self.rows,
            "content_hash": self.content_hash,
            "differs": self.differs,
            "remarks": list(known.remarks),
        }


def list_benchmarks(folder: str | None) -> list[Listed]:
    """Every benchmark of the registry. Without a folder nothing is loaded, and so nothing downloaded."""
    return [_listed(benchmark, folder) for benchmark in REGISTRY.values()]


def _listed(benchmark: Benchmark, folder: str | None) -> Listed:
    if folder is None:
        return Listed(benchmark, None, None, "")
    try:
        problems = benchmark.load(ProblemSource(folder))
    except TbrmError as error:
        return Listed(benchmark, None, None, str(error))
    found = problems_hash(problems)
    differences = [
        f"{what} {have}, expected {known}"
        for what, have, known in (("rows", len(problems), benchmark.rows), ("hash", found, benchmark.content_hash))
        if known is not None and have != known
    ]
    return Listed(benchmark, len(problems), found, "; ".join(differences))


def print_listing(found: Sequence[Listed]) -> None:
    """The list for people."""
    from rich.table import Table

    from evals.tables import print_table

    table = Table("name", "title", "rows", "content hash", "protocol", "from", "differs")
    for one in found:
        known = one.benchmark
        protocol = known.protocol
        heat = "greedy" if not protocol.temperature else f"T={protocol.temperature:g}"
        rows = known.rows if one.rows is None else one.rows
        table.add_row(
            known.name,
            known.title,
            "" if rows is None else str(rows),
            one.content_hash or known.content_hash or "",
            f"Avg@{protocol.samples} {heat}",
            known.origin,
            one.differs,
        )
    print_table(table)
