"""`tbrm sql`."""

import json

import click

from pipeline.cli.options import json_option, store_options
from pipeline.store import Store


@click.command()
@click.argument("query")
@click.option("--limit", type=click.IntRange(min=1), default=1_000, show_default=True, help="Rows to print.")
@store_options
@json_option
def sql(query: str, limit: int, store: Store, as_json: bool) -> None:
    """Run a DuckDB QUERY over the store's tables.

    Views: prompts, rollouts, rewards, ref_logprobs, responses, scores, quarantine, each with the columns dataset,
    generation and label; and trajectories, which joins rollouts with prompt, reward and reference log-probs.
    Example: tbrm sql "select generation, avg(reward) from trajectories group by 1 order by 1"
    """
    from pipeline.browse.sql import run_sql

    names, rows = run_sql(store, query, limit)
    if as_json:
        for row in rows:
            click.echo(json.dumps(dict(zip(names, row, strict=True)), default=str))
        return
    from rich.table import Table

    from pipeline.terminal.console import PlainConsole

    table = Table(*names)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    PlainConsole().print(table)


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else text[:199] + "…"
