"""Options and printing that several commands share."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import click

from pipeline.config import Experiment, load_experiment
from pipeline.config.experiment import check_generation
from pipeline.config.replay import checked_label
from pipeline.errors import ConfigError, StoreError
from pipeline.run.resumable import StageReport
from pipeline.store import Store, open_store
from pipeline.terminal import visible

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


def labelling_options(command: Command) -> Command:
    """Adds --generation, --logged and --label: whose rollouts `rewards` and `ref-logprobs` label, as which version."""
    options = (
        click.option(
            "--generation",
            "-g",
            type=click.IntRange(min=0),
            help="Which generation. With --logged: which partition of the data set; by default all of them.",
        ),
        click.option(
            "--logged", metavar="NAME", help="Label this logged data set instead of the experiment's rollouts."
        ),
        click.option(
            "--label",
            metavar="VERSION",
            callback=_label,
            help="Write the labels as this version beside the others; `replay` in the YAML says which one trains.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def places(
    ctx: click.Context, store: Store, experiment: Experiment, logged: str | None, generation: int | None
) -> tuple[str, list[int]]:
    """(the data set to label, its generations): the given one, or every partition of a logged data set.

    Raises MissingParameter for an experiment's own rollouts without a generation, ConfigError for a generation that the
    experiment does not have, StoreError for an unknown data set.
    """
    dataset = f"logged/{logged}" if logged else experiment.name
    if logged is None and generation is not None:
        check_generation(experiment, generation)
    if generation is not None:
        return dataset, [generation]
    if logged is None:
        raise click.MissingParameter(ctx=ctx, param_type="option", param_hint="'--generation'")
    found = store.generations(dataset, "rollouts")
    if not found:
        known = ", ".join(d.removeprefix("logged/") for d in store.datasets() if d.startswith("logged/")) or "none"
        raise StoreError(
            f"there is no logged data set {logged!r} in {store.root} (known: {known}); "
            f"`tbrm import --name {logged} FILES` makes it"
        )
    return dataset, found


def _label(_ctx: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        return checked_label(value)
    except ValueError as error:
        raise ConfigError(f"--label: {error}") from error


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


def print_reports(reports: Iterator[StageReport], as_json: bool) -> StageReport:
    """Print the report of each partition as it is done; returns one for all of them."""
    printed = [print_report(report, as_json) for report in reports]
    return replace(
        printed[-1],
        rows=sum(report.rows for report in printed),
        seconds=sum(report.seconds for report in printed),
        skipped=all(report.skipped for report in printed),
    )
