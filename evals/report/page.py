"""The report of an experiment: one HTML file, with everything in it and nothing fetched."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from evals.patterns.detectors import PATTERNS, Pattern
from evals.patterns.rates import Example, Group, pattern_groups
from evals.report import chart
from evals.report.chart import Chart, Drawing, Point, Series
from evals.report.curves import curves, read_updates, sampled_lengths
from evals.report.history import GenerationRecord, read_history
from evals.report.provenance import SEEDS, provenance
from evals.report.samples import side_by_side
from evals.report.tables import (
    Table,
    accuracy_tables,
    benchmark_table,
    change_table,
    diagnostics_table,
    generation_table,
    with_interval,
)
from evals.statistics.scores import read_scores
from pipeline.config import Experiment
from pipeline.errors import TbrmError
from pipeline.store import Store
from pipeline.terminal import visible


@dataclass(frozen=True)
class PatternSection:
    """Everything that the section shows."""

    meanings: Sequence[Pattern]
    drawing: Drawing
    table: Table
    examples: Sequence[Example]


def write_report(experiment: Experiment, store: Store, out: Path) -> Path:
    """Write the report to `out`; a reader sees the old file or the whole new one.

    Raises TbrmError when the experiment has left nothing in the store yet, StoreError for damaged data.
    """
    text = render(experiment, store)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(out)
    return out


def render(experiment: Experiment, store: Store) -> str:
    """The page as HTML. Text that models or data sets wrote is escaped, its control characters written out."""
    history = read_history(experiment, store)
    if not history:
        raise TbrmError(
            f"{experiment.name} has nothing in {store.root} yet: start it with `tbrm run {experiment.name}`"
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evals.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    return environment.get_template("page.html.j2").render(_content(experiment, store, history))


def _content(experiment: Experiment, store: Store, history: list[GenerationRecord]) -> dict[str, Any]:
    name = experiment.name
    scored = [r.generation for r in history if r.accuracy]
    all_scores = {g: read_scores(store, name, g) for g in scored}
    generations = [r.generation for r in history]
    lengths = sampled_lengths(store, name, history)
    charts = curves(history, read_updates(store, name, generations), all_scores, lengths)
    return {
        "experiment": experiment,
        "facts": _facts(experiment, history),
        "g": chart,
        "charts": [chart.draw(one) for one in charts],
        "generations": generation_table(history, lengths),
        "accuracies": accuracy_tables(history),
        "change": change_table(all_scores),
        "last_scores": benchmark_table(all_scores[scored[-1]], scored[-1]) if scored else None,
        "diagnostics": diagnostics_table(store, name, generations),
        "patterns": pattern_section(store, name),
        "samples": side_by_side(store, name, all_scores),
        "made": provenance(experiment, store, generations),
        "seeds": SEEDS,
    }


def _facts(experiment: Experiment, history: list[GenerationRecord]) -> list[tuple[str, str]]:
    """What one wants to know first."""
    training, rollouts = experiment.training, experiment.rollouts
    done = sum(bool(record.training) for record in history)
    rewards = [record for record in history if record.reward]
    facts = [
        ("objective", f"{training.objective}, β = {training.beta:g}"),
        ("base model", experiment.policy.base),
        ("prompts", f"{experiment.prompts.source}, template {experiment.prompts.template}"),
        ("generations", f"{done} trained, {experiment.generations} configured"),
        (
            "data",
            f"{experiment.prompts.per_generation:,} prompts a generation, {rollouts.n} responses each"
            if rollouts
            else "logged only",
        ),
        ("replay", f"window {experiment.replay.window}"),
        ("updates", f"{training.updates_per_generation} a generation, {training.prompt_batch} prompts each"),
        ("seed", str(experiment.seed)),
    ]
    if rewards:
        ends = [f"policy[{r.generation}] {with_interval(r.reward, '{:.3f}')}" for r in (rewards[0], rewards[-1])]
        facts.insert(0, ("sampled reward", " → ".join(dict.fromkeys(ends))))
    return facts


def _shown(value: Any) -> Any:
    """Make control characters visible in every value that is put into the page. Markup of the templates stays."""
    return visible(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value


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
        chart.draw(Chart("Reasoning patterns", "% of responses", series, 0.0, 1.0, "95% intervals over prompts")),
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
