"""Reasoning patterns as a section of the report."""

from collections.abc import Sequence
from dataclasses import dataclass

from evals.patterns.detectors import PATTERNS, Pattern
from evals.patterns.rates import Example, Group, pattern_groups
from evals.report.chart import Chart, Drawing, Point, Series, draw
from evals.report.tables import Table
from pipeline.store import Store


@dataclass(frozen=True)
class PatternSection:
    """Everything that the section shows."""

    meanings: Sequence[Pattern]
    drawing: Drawing
    table: Table
    examples: Sequence[Example]


def pattern_section(store: Store, name: str) -> PatternSection | None:
    """Rates over generations; None where no response shows any pattern, as in bare arithmetic."""
    if not (store.generations(name, "rollouts") or store.generations(name, "scores")):
        return None
    groups = [group for group in pattern_groups(store, name) if group.rates]
    if not any(interval.value for group in groups for interval in group.rates.values()):
        return None
    series = [
        Series(
            p.name,
            [
                Point(
                    float(g.label),
                    *(100 * v for v in (g.rates[p.name].value, g.rates[p.name].low, g.rates[p.name].high)),
                )
                for g in groups
            ],
        )
        for p in PATTERNS
    ]
    rows = [
        [
            group.label,
            f"{group.responses:,} of {group.available:,}",
            f"{group.prompts:,}",
            *(group.rates[p.name].percent() for p in PATTERNS),
        ]
        for group in groups
    ]
    header = ["g", "responses", "prompts", *(f"{p.name} %" for p in PATTERNS)]
    return PatternSection(
        PATTERNS,
        draw(Chart("Reasoning patterns", "% of responses", series, 0.0, 1.0, "95% intervals over prompts")),
        Table("Share of responses in % with 95% intervals over prompts.", header, rows),
        _ends(groups),
    )


def _ends(groups: Sequence[Group]) -> list[Example]:
    """Of each pattern the example of the first and of the last generation that has one."""
    found: list[Example] = []
    for pattern in PATTERNS:
        having = [e for group in groups for e in group.examples if e.pattern == pattern.name]
        found += [having[0], having[-1]] if len(having) > 1 else having
    return found
