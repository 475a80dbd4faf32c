"""`tbrm config`: what an experiment says once every default is filled in."""

from collections.abc import Sequence

import click
import yaml

from pipeline.cli_options import json_option, set_option
from pipeline.config import load_experiment


@click.group()
def config() -> None:
    """Show or check an experiment's configuration."""


@config.command()
@click.argument("name")
@set_option
@json_option
def show(name: str, overrides: Sequence[str], as_json: bool) -> None:
    """Print the resolved experiment NAME (or path) with every default."""
    experiment = load_experiment(name, overrides)
    if as_json:
        click.echo(experiment.model_dump_json(indent=1))
    else:
        click.echo(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)


@config.command()
@click.argument("path")
@set_option
@json_option
def validate(path: str, overrides: Sequence[str], as_json: bool) -> None:
    """Check the experiment at PATH (or NAME); exit status 1 and a list of what is wrong when it cannot be used."""
    experiment = load_experiment(path, overrides)
    click.echo(f'{{"valid": true, "name": "{experiment.name}"}}' if as_json else f"{path}: valid ({experiment.name})")
