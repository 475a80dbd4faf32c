"""`tbrm status`: where experiments stand, and what is left of them costs."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import experiment_argument, json_option, print_json, set_option, store_options

if TYPE_CHECKING:
    from assets.experiment.status import StageState, Status
    from pipeline.store import Store


@click.command()
@experiment_argument(required=False)
@set_option
@store_options
@json_option
def status(experiment: str | None, overrides: Sequence[str], store: "Store", as_json: bool) -> None:
    """What of EXPERIMENT is finished, running or out of date, what comes next, and what the rest costs.

    Time and disk are estimated from what the same stages took before, as their manifests say. Without EXPERIMENT: a
    line for each one in experiments/.
    """
    from assets.experiment.source import read_experiment, read_experiments
    from assets.experiment.status import status_of

    if experiment is not None:
        one = status_of(store, read_experiment(experiment, overrides).experiment)
        print_json(one.to_json()) if as_json else _print_one(one)
        return
    good, broken = read_experiments()
    found = [status_of(store, source.experiment) for source in good]
    if as_json:
        errors = {str(source.path): source.error for source in broken}
        print_json({"experiments": [each.to_json() for each in found], "broken": errors})
        return
    _print_all(found)
    for source in broken:
        click.echo(f"cannot be used: {source.error}", err=True)


def _print_all(found: "Sequence[Status]") -> None:
    from rich.table import Table

    from pipeline.console import PlainConsole

    table = Table("experiment", "generations", "next", "what is left costs")
    for one in found:
        out_of_date = sum(each.state == "out of date" for each in one.stages)
        remarks = [f"{out_of_date} out of date"] if out_of_date else []
        remarks += ["other settings"] if one.refused else []
        remark = f" ({', '.join(remarks)})" if remarks else ""
        done = f"{one.finished} of {one.generations - one.first}{remark}"
        table.add_row(one.experiment, done, _step(one.next), str(one.cost) if one.to_do else "")
    PlainConsole().print(table)


def _print_one(one: "Status") -> None:
    from rich.table import Table

    from assets.experiment.status import size
    from pipeline.console import PlainConsole

    console = PlainConsole(highlight=False, soft_wrap=True)
    policy = "no policy is published yet" if one.published is None else f"policy[{one.published}] is published"
    console.print(f"{one.experiment}: {one.finished} of {one.generations - one.first} generations finished; {policy}")
    names = list(dict.fromkeys(each.stage for each in one.stages if each.generation is not None))
    table = Table("generation", *names)
    for label, states in _rows(one.stages, names):
        table.add_row(label, *states)
    console.print(table)
    for each in one.stages:
        if each.generation is None or each.why:
            place = "" if each.generation is None else f"[{each.generation}]"
            console.print(f"{each.stage}{place}: {each.state}{f' ({each.why})' if each.why else ''}")
    if one.next is None:
        console.print("next: nothing is left to do")
    else:
        console.print(f"next: {_step(one.next)}: {one.next_cost}")
        free = "" if one.free_bytes is None else f"; {size(one.free_bytes)} are free"
        console.print(f"to the end, stages to do: {one.to_do:,}; {one.cost}{free}")
    if one.refused:
        console.print(f"`tbrm run` would stop here: {one.refused}")


def _rows(stages: "Sequence[StageState]", names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(generations, the state of each stage): generations one after the other that are alike share a row."""
    by_generation: dict[int, dict[str, str]] = {}
    for each in stages:
        if each.generation is not None:
            by_generation.setdefault(each.generation, {})[each.stage] = each.state
    rows = ((generation, [states.get(name, "-") for name in names]) for generation, states in by_generation.items())
    for states, alike in groupby(rows, key=lambda row: row[1]):
        numbers = [generation for generation, _ in alike]
        yield str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}", states


def _step(one: "StageState | None") -> str:
    if one is None:
        return "nothing is left to do"
    place = one.stage if one.generation is None else f"{one.stage}[{one.generation}]"
    return f"{place} (running)" if one.state == "running" else place
