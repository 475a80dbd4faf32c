"""`tbrm doctor`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from assets.app.access import DEFAULT_PORT
from pipeline.cli.options import experiment_argument, json_option, print_json, set_option, store_options

if TYPE_CHECKING:
    from pipeline.store import Store

_MARKS = {"ok": ("ok", "green"), "warning": ("look", "yellow"), "stop": ("STOP", "red")}


@click.command()
@experiment_argument(required=False)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="Port of `tbrm ui`."
)
@set_option
@store_options
@json_option
def doctor(experiment: str | None, port: int, overrides: Sequence[str], store: "Store", as_json: bool) -> None:
    """What of this machine would stop a run of EXPERIMENT, found in a few seconds and without starting anything.

    Exit status 1 when something would stop it. Without EXPERIMENT: the machine alone. Memory and disk are estimates.
    """
    from assets.doctor.examination import examine
    from assets.doctor.findings import will_stop
    from pipeline.config import load_experiment

    rows = examine(load_experiment(experiment, overrides) if experiment else None, store, port)
    if as_json:
        print_json({"will_stop": will_stop(rows), "rows": [row.to_json() for row in rows]})
    else:
        _print([(row.check, *_MARKS[row.state], row.found, row.next_step) for row in rows])
    if will_stop(rows):
        sys.exit(1)


def _print(rows: Sequence[tuple[str, str, str, str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from pipeline.console import PlainConsole
    from pipeline.terminal import visible

    table = Table("", "check", "found, and what to do", show_lines=False)
    for check, mark, colour, found, step in rows:
        words = Text(visible(found))
        if step:
            words.append(f"\n→ {visible(step)}", style="bold")
        table.add_row(Text(mark, style=colour), check, words)
    PlainConsole().print(table)
