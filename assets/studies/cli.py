"""`tbrm study`: one claim tested, and its page written."""

from pathlib import Path

import click

from pipeline.cli.options import store_options
from pipeline.run.threads import usable_cores
from pipeline.store import Store


@click.command("study")
@click.argument("name")
@click.option(
    "--size", type=click.Choice(["tiny", "small", "paper"]), default="tiny", help="What the machine can hold."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("docs/studies"), help="Folder of NAME.md, .json and .png."
)
@click.option("--workers", type=click.IntRange(min=1), default=None, help="Runs at a time.  [default: one a core]")
@store_options
def study(name: str, size: str, out: Path, workers: int | None, store: Store) -> None:
    """Run the study NAME, or `list` what there is, what it costs and how much of it is finished.

    An interrupted study goes on where it was; finished runs are reused by the hash of their settings.
    """
    from assets.studies.registry import find, names, run_study

    if name == "list":
        for known in names():
            for line in _lines(known, store):
                click.echo(line)
        return
    find(name)
    for path in run_study(name, size, store, out, workers or usable_cores(), click.echo):
        click.echo(path)


def _lines(name: str, store: Store) -> list[str]:
    from assets.studies.loop import finished_runs
    from assets.studies.registry import find

    halves = find(name)
    lines = [f"{name:14} tiny   tables only: about two minutes of one core"] if halves.exact is not None else []
    for size, settings in (halves.policies.sizes if halves.policies is not None else {}).items():
        done, every = finished_runs(settings, store), settings.seeds * len(settings.arms)
        lines.append(f"{name:14} {size:6} {done} of {every} runs. {settings.cost}")
    return lines
