"""`tbrm inspect`."""

import json

import click

from pipeline.cli.options import json_option, store_options
from pipeline.store import Store


@click.command()
@click.argument("dataset", required=False)
@store_options
@json_option
def inspect(dataset: str | None, store: Store, as_json: bool) -> None:
    """What the store holds of DATASET (an experiment, or logged/NAME): tables, rows, tokens, rewards, lengths.

    Without DATASET: one line for each. Where several versions of a label exist, it says how often they agree.
    """
    from pipeline.browse.inspection import inspect_dataset, overview
    from pipeline.browse.inspection_tables import print_inspection, print_overview

    if dataset is None:
        found = overview(store)
        click.echo(json.dumps(found)) if as_json else print_overview(found)
        return
    one = inspect_dataset(store, dataset)
    click.echo(json.dumps(one)) if as_json else print_inspection(one)
