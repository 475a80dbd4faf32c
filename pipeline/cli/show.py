"""`tbrm show`."""

import json
from typing import Any

import click

from pipeline.cli.options import json_option, store_options
from pipeline.errors import TbrmError
from pipeline.store import Store
from pipeline.terminal.text import visible


@click.command()
@click.argument("trajectory_id")
@store_options
@json_option
def show(trajectory_id: str, store: Store, as_json: bool) -> None:
    """Print one trajectory: prompt, response, rewards, reference log-prob, and where it came from.

    The response's words are coloured by log π_ref of their tokens (green: expected, red: surprising) as far as
    log-probs are stored; words of the environment are dimmed.
    """
    from pipeline.browse.trajectory import find_trajectory

    found = find_trajectory(store, trajectory_id)
    if found is None:
        raise TbrmError(f"there is no trajectory {trajectory_id!r} in {store.root}; `tbrm sql` lists trajectory_ids")
    if as_json:
        click.echo(json.dumps(found, default=str))
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from pipeline.terminal.console import PlainConsole

    console = PlainConsole()
    console.print(Panel(str(found["prompt_text"]), title="prompt", title_align="left"))
    colour = "green" if found["reward"] is not None and found["reward"] > 0.5 else "red"
    text = Text(visible(str(found["response_text"])), style=colour if found["reward"] is not None else "")
    console.print(Panel(text, title=f"response, {found['response_tokens']} tokens", title_align="left"))
    table = Table(show_header=False)
    hidden = {"prompt_text", "response_text", "labels"}
    for key, value in found.items():
        if key not in hidden and value is not None:
            table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
    console.print(table)
    labels = Table(
        "label table", "value", "status", "extracted answer", "made by", title="all labels", title_justify="left"
    )
    for label in found["labels"]:
        cells = (
            str(label[name] if label[name] is not None else "") for name in ("table", "value", "status", "answer", "by")
        )
        labels.add_row(*cells)
    console.print(labels)
