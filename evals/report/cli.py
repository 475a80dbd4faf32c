"""`tbrm report` and `tbrm patterns`: what an experiment did, for reading."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.cli.options import json_option, set_option, store_options
from pipeline.config import load_experiment
from pipeline.store import Store


@click.command()
@click.argument("experiment")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: EXPERIMENT.html, here.")
@set_option
@store_options
def report(experiment: str, out: Path | None, overrides: Sequence[str], store: Store) -> None:
    """Write one self-contained HTML file about EXPERIMENT (a name or a path).

    Curves, tables with 95% intervals, off-policy diagnostics, reasoning patterns, responses of several generations side
    by side, and what is needed to make the numbers again. Nothing is fetched when it is opened.
    """
    from evals.report import write_report

    loaded = load_experiment(experiment, overrides)
    click.echo(str(write_report(loaded, store, out or Path(f"{loaded.name}.html"))))


@click.command()
@click.argument("dataset")
@click.option(
    "--examples", is_flag=True, help="Print one example of each pattern and group, with the rule that matched."
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=2_000, show_default=True, help="Responses of a generation."
)
@store_options
@json_option
def patterns(dataset: str, examples: bool, limit: int, store: Store, as_json: bool) -> None:
    """Rates of verification, backtracking, decomposition and enumeration in DATASET's stored responses.

    DATASET is an experiment (one line a generation) or logged/NAME (by behaviour policy). The rules are in
    evals/patterns/detectors.py; docs/patterns.md says how often they are right.
    """
    from evals.patterns.rates import pattern_groups
    from evals.report.terminal import print_patterns

    name = load_experiment(dataset).name if dataset.endswith((".yaml", ".yml")) else dataset
    groups = pattern_groups(store, name, limit)
    if as_json:
        click.echo(json.dumps([group.to_json() for group in groups]))
        return
    print_patterns(groups, examples)
