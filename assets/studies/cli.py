"""`tbrm study`: one claim tested, and its page written."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import json_option, print_json, store_options

if TYPE_CHECKING:
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
@json_option
def study(name: str, size: str, out: Path, workers: int | None, store: "Store", as_json: bool) -> None:
    """Run the study NAME, or `list` what there is, what it costs and how much of it is finished.

    An interrupted study goes on where it was; finished runs are reused by the hash of their settings.
    """
    from assets.studies.registry import costs, names, run_study
    from pipeline.run.threads import usable_cores

    workers = workers or usable_cores()
    if name == "list":
        every = [cost for known in names() for cost in costs(known, store, workers)]
        if as_json:
            print_json([cost.to_json() for cost in every])
            return
        for cost in every:
            click.echo(f"{cost.study:14} {cost.size:6} {cost}")
        return
    chosen = [cost for cost in costs(name, store, workers) if cost.size == size]
    for cost in chosen:
        _say(f"{name} {size}: {cost}")
    files = [str(path) for path in run_study(name, size, store, out, workers, _say)]
    document: dict[str, Any] = {"study": name, "size": size, "files": files}
    print_json(document) if as_json else click.echo("\n".join(files))


def _say(line: str) -> None:
    click.echo(line, err=True)
