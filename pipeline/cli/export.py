"""`tbrm export`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import Finite, json_option, print_json, store_options
from pipeline.errors import ConfigError
from pipeline.terminal import visible

if TYPE_CHECKING:
    from pipeline.store import Store

POLICY = re.compile(r"(?P<experiment>[a-z0-9][a-z0-9_]*):(?P<generation>\d+)")
"""How a policy is named."""


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
@click.option("--push", metavar="REPO", help="Put FOLDER into this repository of the Hugging Face hub as well.")
@click.option("--public", is_flag=True, help="With --push: a repository that is made is public.")
@store_options
@json_option
def export(
    dataset: str, folder: str, push: str | None, public: bool, store: "Store", as_json: bool, **settings: Any
) -> None:
    """Write trajectories of DATASET (logged/NAME or an experiment), or a policy (EXPERIMENT:GENERATION), to FOLDER.

    FOLDER is what `datasets.load_dataset`, `transformers` and the hub take, with a card. As `dataset` it holds every
    column; `tbrm import` gives the same trajectories again.
    """
    if public and push is None:
        raise ConfigError("--public says who sees what --push puts on the hub: give --push REPO as well")
    policy = POLICY.fullmatch(dataset)
    if policy and (settings["kind"] != "dataset" or settings["generation"] or settings["rewards"]):
        raise ConfigError(f"{dataset} is a policy, and --as, --generation and --rewards are for trajectories")
    told = _policy(store, policy, folder) if policy else _trajectories(store, dataset, folder, settings)
    if push is not None:
        from pipeline.policies.hub import push as push_folder

        told["commit"] = push_folder(Path(folder), push, "model" if policy else "dataset", private=not public)
    if as_json:
        print_json(told)
        return
    what = f"{told['rows']:,} rows" if "rows" in told else f"policy {told['policy']}"
    click.echo(f"{what} in {visible(folder)}; its README.md has licences to fill in")
    for why, count in told.get("left_out", {}).items():
        click.echo(f"left out: {count:,} {why}")
    if "commit" in told:
        click.echo(f"pushed: {visible(told['commit'])}")


def _policy(store: "Store", named: re.Match[str], folder: str) -> dict[str, Any]:
    from pipeline.browse.model_card import export_policy_folder

    export_policy_folder(store, named["experiment"], int(named["generation"]), folder)
    return {"policy": named.group(), "folder": folder}


def _trajectories(store: "Store", dataset: str, folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    from pipeline.logged.exporter import ExportSettings, run_export

    done = run_export(ExportSettings(dataset, folder, **settings), store)
    return {"rows": done.rows, "left_out": dict(done.left_out), "folder": folder}
