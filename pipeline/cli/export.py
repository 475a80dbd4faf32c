"""`tbrm export`."""

import json
from typing import Any

import click

from pipeline.cli.options import Finite, json_option, store_options
from pipeline.store import Store
from pipeline.terminal import visible


@click.command()
@click.argument("dataset")
@click.argument("folder")
@click.option(
    "--as",
    "kind",
    type=click.Choice(["dataset", "sft", "unpaired", "preference", "verl"]),
    default="dataset",
    show_default=True,
    help="dataset: every column, imports again. sft, unpaired, preference: for TRL. verl: its training prompts.",
)
@click.option("--generation", "-g", type=click.IntRange(min=0), default=0, show_default=True, help="Partition.")
@click.option("--rewards", help="Version of the rewards; else those that came with the data set.")
@click.option(
    "--least-reward", type=Finite(), help="sft: at least this reward; unpaired: from here on good (else 0.5)."
)
@store_options
@json_option
def export(dataset: str, folder: str, store: Store, as_json: bool, **settings: Any) -> None:
    """Write trajectories of DATASET (logged/NAME or an experiment) to FOLDER, with a dataset card.

    FOLDER is what `datasets.load_dataset` and the hub take. As `dataset` it holds every column; `tbrm import` gives the
    same trajectories again.
    """
    from pipeline.logged.exporter import ExportSettings, run_export

    done = run_export(ExportSettings(dataset, folder, **settings), store)
    if as_json:
        click.echo(json.dumps({"rows": done.rows, "left_out": dict(done.left_out), "folder": folder}))
        return
    click.echo(f"{done.rows:,} rows in {visible(folder)}; its README.md has licences to fill in")
    for why, count in done.left_out.items():
        click.echo(f"left out: {count:,} {why}")
