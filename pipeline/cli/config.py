"""`tbrm config`: what an experiment says once every default is filled in."""

from collections.abc import Sequence

import click
import yaml

from pipeline.cli.options import json_option, set_option
from pipeline.config import load_experiment
from pipeline.errors import ConfigError


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
    """Check the experiment at PATH (or NAME); exit status 1 and a list of what is wrong when it cannot be used.

    Its models must exist and what it asks for be installed on this machine; `tbrm doctor` looks at the rest.
    """
    from pipeline.run.requirements import check_models, missing_requirements

    experiment = load_experiment(path, overrides)
    unknown = check_models(experiment)
    if missing := missing_requirements(experiment):
        raise ConfigError(f"{path} asks for what is not there:\n" + "\n".join(f"  {line}" for line in missing))
    for told in unknown:
        click.echo(f"not checked: {told}", err=True)
    click.echo(f'{{"valid": true, "name": "{experiment.name}"}}' if as_json else f"{path}: valid ({experiment.name})")
