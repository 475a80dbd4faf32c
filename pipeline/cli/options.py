"""Options and printing that several commands share."""

import functools
import json
import math
import re
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


class Finite(click.FloatRange):
    """A number within bounds. `nan` lies within any for click, and `inf` where there is no upper one."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


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


experiment_option = click.option(
    "--experiment", "-e", "named", help="The same as EXPERIMENT: a file in experiments/, or a path to a YAML file."
)


def experiment_argument(required: bool = True) -> Callable[[Command], Command]:
    """Adds EXPERIMENT[:GENERATION] and --experiment, which say the same; the command receives `experiment`, its name.

    A generation behind the colon is what --generation says, where the command (below this line) has that.
    """

    def decorate(command: Command) -> Command:
        options: list[click.Parameter] = getattr(command, "__click_params__", [])
        with_generation = any(option.name in ("generation", "generations") for option in options)
        metavar = "EXPERIMENT[:GENERATION]" if with_generation else "EXPERIMENT"

        @click.argument("target", required=False, metavar=metavar)
        @experiment_option
        @functools.wraps(command)
        def wrapped(*args: Any, target: str | None, named: str | None, **kwargs: Any) -> Any:
            found = _experiment_of(target, named, kwargs)
            if found is None and required:
                raise click.MissingParameter(param_type="argument", param_hint=f"'{metavar}'")
            return command(*args, experiment=found, **kwargs)

        return wrapped

    return decorate


def experiment_options(command: Command) -> Command:
    """Adds EXPERIMENT[:GENERATION], --experiment, --set and --root; the command receives `experiment` and `store`."""

    @experiment_argument()
    @set_option
    @store_options
    @functools.wraps(command)
    def wrapped(*args: Any, experiment: str, overrides: Sequence[str], **kwargs: Any) -> Any:
        return command(*args, experiment=load_experiment(experiment, overrides), **kwargs)

    return wrapped


def split_target(target: str) -> tuple[str, int | None]:
    """EXPERIMENT and GENERATION of `EXPERIMENT[:GENERATION]`; the experiment may be a path or an address."""
    name, _, generation = target.rpartition(":")
    return (name, int(generation)) if name and re.fullmatch("[0-9]{1,9}", generation) else (target, None)


def _experiment_of(target: str | None, named: str | None, options: dict[str, Any]) -> str | None:
    """The experiment that argument and option name; a generation of the argument goes into `options`."""
    if target is None:
        return named
    found, generation = split_target(target)
    if named is not None and named != found:
        raise click.UsageError(f"two experiments are named: {found}, and --experiment {named}")
    if generation is None:
        return found
    if "generations" in options:
        options["generations"] = (*options["generations"], generation)
        return found
    if "generation" not in options:
        raise click.UsageError(f"this command works on the whole experiment: leave out :{generation}")
    if options["generation"] not in (None, generation):
        raise click.UsageError(f"two generations are named: {target}, and --generation {options['generation']}")
    options["generation"] = generation
    return found


def generation_option(command: Command) -> Command:
    """Adds --generation, which is required unless EXPERIMENT:GENERATION names it."""

    @click.option("--generation", "-g", type=click.IntRange(min=0), help="Which generation, as EXPERIMENT:GENERATION.")
    @functools.wraps(command)
    def wrapped(*args: Any, generation: int | None, **kwargs: Any) -> Any:
        if generation is None:
            raise click.MissingParameter(param_type="option", param_hint="'EXPERIMENT:GENERATION' or '--generation'")
        return command(*args, generation=generation, **kwargs)

    return wrapped


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
