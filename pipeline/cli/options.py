"""Options and printing that every command shares."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from pipeline.config import load_experiment
from pipeline.run.report import StageReport
from pipeline.store import open_store
from pipeline.terminal.text import visible

Command = Callable[..., Any]

root_option = click.option("--root", help="Store root: a path or fsspec URL. Default: $TBRM_ROOT, else ./data.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override a field, e.g. training.beta=0.01. Repeatable.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for programs instead of text for people."
)
replace_option = click.option(
    "--replace", is_flag=True, help="Write a committed partition anew; the old one is kept beside it."
)


def store_options(command: Command) -> Command:
    """Adds --root; the command receives `store`."""

    @root_option
    @functools.wraps(command)
    def wrapped(*args: Any, root: str | None, **kwargs: Any) -> Any:
        return command(*args, store=open_store(root), **kwargs)

    return wrapped


def experiment_options(command: Command) -> Command:
    """Adds --experiment, --set and --root; the command receives `experiment` and `store`."""

    @click.option(
        "--experiment", "-e", "name", required=True, help="Name of a file in experiments/, or a path to a YAML file."
    )
    @set_option
    @store_options
    @functools.wraps(command)
    def wrapped(*args: Any, name: str, overrides: Sequence[str], **kwargs: Any) -> Any:
        return command(*args, experiment=load_experiment(name, overrides), **kwargs)

    return wrapped


def generation_option(command: Command) -> Command:
    """Adds --generation."""
    return click.option("--generation", "-g", type=click.IntRange(min=0), required=True, help="Which generation.")(
        command
    )


def print_report(report: StageReport, as_json: bool) -> StageReport:
    """Print what a stage did; returns the report, so that a calling program has it too."""
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return report
    what = "was already there" if report.skipped else f"{report.rows:,} rows in {report.seconds:.1f} s"
    click.echo(f"{report.dataset} {report.stage} generation {report.generation}: {what}")
    for name, value in report.metrics.items():
        click.echo(f"  {name:32} {value:.6g}" if isinstance(value, float) else f"  {name:32} {visible(str(value))}")
    return report
