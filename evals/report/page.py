"""From the store to the page."""

from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from evals.report import chart
from evals.report.curves import curves, read_updates, sampled_lengths
from evals.report.history import GenerationRecord, read_history
from evals.report.patterns import pattern_section
from evals.report.provenance import SEEDS, provenance
from evals.report.samples import side_by_side
from evals.report.tables import (
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
from pipeline.terminal.text import visible


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
    """Every value on its way into the page; what a template made itself is markup already."""
    return visible(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value
