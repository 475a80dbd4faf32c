"""`tbrm config`: what an experiment says once every default is filled in, and what its fields mean."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

import click

from pipeline.cli.options import json_option, no_root_option, print_json, set_option
from pipeline.errors import ConfigError


@click.group()
def config() -> None:
    """Show, check or explain an experiment's configuration."""


@config.command()
@click.argument("name")
@set_option
@no_root_option
@json_option
def show(name: str, overrides: Sequence[str], as_json: bool) -> None:
    """Print the resolved experiment NAME (or path) with every default."""
    import yaml

    from pipeline.config import load_experiment

    experiment = load_experiment(name, overrides)
    if as_json:
        print_json(experiment.model_dump(mode="json"))
    else:
        click.echo(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)


@config.command()
@click.argument("path")
@set_option
@no_root_option
@json_option
def validate(path: str, overrides: Sequence[str], as_json: bool) -> None:
    """Check the experiment at PATH (or NAME); exit status 1 and a list of what is wrong when it cannot be used.

    Its models must exist and what it asks for be installed on this machine; `tbrm doctor` looks at the rest.
    """
    from pipeline.config import load_experiment
    from pipeline.run.requirements import check_models, missing_requirements

    experiment = load_experiment(path, overrides)
    unknown = check_models(experiment)
    if missing := missing_requirements(experiment):
        raise ConfigError(f"{path} asks for what is not there:\n" + "\n".join(f"  {line}" for line in missing))
    for told in unknown:
        click.echo(f"not checked: {told}", err=True)
    if as_json:
        print_json({"valid": True, "name": experiment.name, "not_checked": list(unknown)})
        return
    click.echo(f"{path}: valid ({experiment.name})")


@config.command()
@click.argument("field", default="")
@no_root_option
@json_option
def explain(field: str, as_json: bool) -> None:
    """Say what FIELD is (`training.beta`, a part such as `replay`, or a field's bare name). Without one: list all."""
    from pipeline.config import explain as explaining

    found = explaining.explain(field) if field else explaining.explained_fields()
    if as_json:
        print_json([asdict(one) for one in found])
        return
    if not field:
        for one in found:
            click.echo(f"{one.path:52} {one.about.partition('. ')[0].rstrip('.')[:120]}")
        return
    for one in found:
        default = "required" if one.default is None else f"default {one.default}"
        click.echo(f"{one.path}: {one.type.replace('`', '')}; {default}; decides {one.decides}")
        click.echo(textwrap.fill(one.about, 110, initial_indent="  ", subsequent_indent="  "))
    click.echo(f"More: docs/{found[0].page}")


@config.command()
@no_root_option
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of an experiment's YAML, for editors: `# yaml-language-server: $schema=PATH`."""
    from pipeline.config.explain import json_schema

    found = json_schema()
    print_json(found) if as_json else click.echo(json.dumps(found, ensure_ascii=False, indent=1))
