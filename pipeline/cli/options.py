"""Options and printing that several commands share.

Every command's help imports this module, so it imports neither the configuration nor the store: see the functions.
"""

import contextlib
import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from pipeline.errors import ConfigError, StoreError
from pipeline.terminal import visible

if TYPE_CHECKING:
    from pipeline.config import Experiment
    from pipeline.run.resumable import StageReport
    from pipeline.store import Store

Command = Callable[..., Any]
R = TypeVar("R")
_STDOUT = 1
_documents: TextIO | None = None
"""Where the one document of a command with --json goes; None: to standard output, as everything."""


class Finite(click.FloatRange):
    """A number within bounds. `nan` lies within any for click, and `inf` where there is no upper one."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


root_option = click.option("--root", help="Store root: a path or fsspec URL. Default: $TBRM_ROOT, else ./data.")
no_root_option = click.option(
    "--root", expose_value=False, help="Accepted as by every command; this one reads nothing from the store."
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override a field, e.g. training.beta=0.01. Repeatable.",
)
replace_option = click.option(
    "--replace", is_flag=True, help="Write a committed partition anew; the old one is kept beside it."
)


def json_option(command: Command) -> Command:
    """Adds --json; the command receives `as_json`, and gives its one document to `print_json`.

    With it, everything else that the command and its libraries write to standard output goes to standard error.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document; everything else: standard error.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, **kwargs: Any) -> Any:
        with _only_documents() if as_json else contextlib.nullcontext():
            return command(*args, as_json=as_json, **kwargs)

    return wrapped


def print_json(tree: Any) -> None:
    """Print the document of a command with --json: everything that JSON has no form for as its text."""
    click.echo(json.dumps(tree, ensure_ascii=False, default=str), file=_documents)


@contextlib.contextmanager
def _only_documents() -> Generator[None]:
    """Send standard output to standard error, descriptor included, and what `print_json` prints to standard output."""
    global _documents
    before, real = _documents, sys.stdout
    with contextlib.ExitStack() as stack:
        _documents = stack.enter_context(_moved(real)) if _is_descriptor(real) else real
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            _documents = before


def _is_descriptor(stream: TextIO) -> bool:
    """Whether what is written to the stream goes to descriptor 1, as what libraries and child processes write does."""
    try:
        return stream.fileno() == _STDOUT
    except OSError:
        return False


@contextlib.contextmanager
def _moved(stdout: TextIO) -> Generator[TextIO]:
    """Descriptor 1 becomes descriptor 2; gives a stream to what was standard output."""
    stdout.flush()
    with os.fdopen(os.dup(_STDOUT), "w", encoding=stdout.encoding) as saved:
        os.dup2(sys.stderr.fileno(), _STDOUT)
        try:
            yield saved
        finally:
            saved.flush()
            os.dup2(saved.fileno(), _STDOUT)


def store_options(command: Command) -> Command:
    """Adds --root; the command receives `store`."""

    @root_option
    @functools.wraps(command)
    def wrapped(*args: Any, root: str | None, **kwargs: Any) -> Any:
        from pipeline.store import open_store

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

        @click.argument("target", required=False, metavar=metavar if required else f"[{metavar}]")
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
        from pipeline.config import load_experiment

        found = load_experiment(experiment, overrides)
        return tracked_report(found, kwargs["store"], command(*args, experiment=found, **kwargs))

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
    ctx: click.Context, store: "Store", experiment: "Experiment", logged: str | None, generation: int | None
) -> tuple[str, list[int]]:
    """(the data set to label, its generations): the given one, or every partition of a logged data set.

    Raises MissingParameter for an experiment's own rollouts without a generation, ConfigError for a generation that the
    experiment does not have, StoreError for an unknown data set.
    """
    from pipeline.config.experiment import check_generation

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
    if value is None:
        return None
    from pipeline.config.replay import checked_label

    try:
        return checked_label(value)
    except ValueError as error:
        raise ConfigError(f"--label: {error}") from error


def tracked_report(experiment: "Experiment", store: "Store", result: R) -> R:
    """What a command returns, whose numbers the experiment's tracker gets where it is the report of a stage."""
    from pipeline.run.resumable import StageReport

    if experiment.tracker != "none" and isinstance(result, StageReport):
        from pipeline.run.tracking import track_stage

        track_stage(experiment, store, result)
    return result


def print_report(report: "StageReport", as_json: bool) -> "StageReport":
    """Print what a stage did; returns the report, so that a calling program has it too."""
    if as_json:
        print_json(report.to_json())
        return report
    what = "was already there" if report.skipped else f"{report.rows:,} rows in {report.seconds:.1f} s"
    click.echo(f"{report.dataset} {report.stage} generation {report.generation}: {what}")
    for name, value in report.metrics.items():
        click.echo(f"  {name:32} {value:.6g}" if isinstance(value, float) else f"  {name:32} {visible(str(value))}")
    return report


def print_reports(reports: "Iterable[StageReport]", as_json: bool) -> "StageReport":
    """Print the report of each partition as it is done; returns one for all, which JSON has with those `partitions`."""
    from pipeline.run.resumable import merged

    printed = [report if as_json else print_report(report, as_json) for report in reports]
    whole = merged(printed)
    if as_json:
        print_json({**whole.to_json(), "partitions": [report.to_json() for report in printed]})
    return whole
