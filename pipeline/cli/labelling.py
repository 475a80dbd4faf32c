"""What `tbrm rewards` and `tbrm ref-logprobs` share: whose rollouts to label, and under which version."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import click

from pipeline.cli.options import print_report
from pipeline.config.replay import checked_label
from pipeline.errors import ConfigError, StoreError
from pipeline.run.report import StageReport
from pipeline.store import Store

Command = Callable[..., Any]


def labelling_options(command: Command) -> Command:
    """Adds --generation, --logged and --label."""
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


def places(ctx: click.Context, store: Store, dataset: str, logged: str | None, generation: int | None) -> list[int]:
    """Generations to label: the given one, or every partition of a logged data set.

    Raises MissingParameter for an experiment's own rollouts without a generation, StoreError for an unknown data set.
    """
    if generation is not None:
        return [generation]
    if logged is None:
        raise click.MissingParameter(ctx=ctx, param_type="option", param_hint="'--generation'")
    found = store.generations(dataset, "rollouts")
    if not found:
        known = ", ".join(d.removeprefix("logged/") for d in store.datasets() if d.startswith("logged/")) or "none"
        raise StoreError(
            f"there is no logged data set {logged!r} in {store.root} (known: {known}); "
            f"`tbrm import --name {logged} FILES` makes it"
        )
    return found


def print_reports(reports: Iterator[StageReport], as_json: bool) -> StageReport:
    """Print the report of each partition as it is done; returns one for all of them."""
    printed = [print_report(report, as_json) for report in reports]
    return replace(
        printed[-1],
        rows=sum(report.rows for report in printed),
        seconds=sum(report.seconds for report in printed),
        skipped=all(report.skipped for report in printed),
    )


def _label(_ctx: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        return checked_label(value)
    except ValueError as error:
        raise ConfigError(f"--label: {error}") from error
