"""`tbrm rewards` labels a generation; `tbrm rewards audit` asks a second method about the labels."""

import json
from collections.abc import Sequence

import click

from pipeline.cli.options import (
    json_option,
    labelling_options,
    places,
    print_reports,
    replace_option,
    set_option,
    store_options,
)
from pipeline.config import load_experiment
from pipeline.run.report import StageReport
from pipeline.store import Store
from pipeline.terminal import visible


@click.group(invoke_without_command=True)
@click.option("--experiment", "-e", "name", help="Name of a file in experiments/, or a path to a YAML file.")
@labelling_options
@click.option("--verifier", help="Grade every row with this verifier, whatever its prompt names.")
@replace_option
@set_option
@store_options
@json_option
@click.pass_context
def rewards(
    ctx: click.Context,
    name: str | None,
    generation: int | None,
    logged: str | None,
    label: str | None,
    verifier: str | None,
    replace: bool,
    overrides: Sequence[str],
    store: Store,
    as_json: bool,
) -> StageReport | None:
    """Label trajectories with the experiment's verifier."""
    if ctx.invoked_subcommand:
        return None
    if name is None:  # the group cannot require it: its subcommands bring their own
        raise click.MissingParameter(ctx=ctx, param_type="option", param_hint="'--experiment'")
    from pipeline.rewards.stage import run_rewards

    experiment = load_experiment(name, overrides)
    dataset = f"logged/{logged}" if logged else experiment.name
    found = places(ctx, store, dataset, logged, generation)
    reports = (run_rewards(experiment, store, g, dataset, label, verifier, replace) for g in found)
    return print_reports(reports, as_json)


@rewards.command()
@click.argument("experiment")
@click.option(
    "--generation", "-g", "generations", type=click.IntRange(min=0), multiple=True, help="Default: all labelled."
)
@click.option("--dataset", help="Audit a logged data set (`logged/NAME`) instead of the experiment's own rollouts.")
@click.option(
    "--sample", type=click.IntRange(min=1), default=500, show_default=True, help="Responses of each generation."
)
@click.option("--show", type=click.IntRange(min=0), default=20, show_default=True, help="Disagreements to list.")
@set_option
@store_options
@json_option
def audit(
    experiment: str,
    generations: Sequence[int],
    dataset: str | None,
    sample: int,
    show: int,
    overrides: Sequence[str],
    store: Store,
    as_json: bool,
) -> None:
    """Grade a sample of EXPERIMENT's labels again by an independent method and list where the two differ.

    Rewarded responses that the second method calls wrong come first: they are what a policy would learn to exploit.
    """
    from pipeline.rewards.audit import audit_experiment

    audits = audit_experiment(load_experiment(experiment, overrides), store, generations, dataset, sample)
    if as_json:
        click.echo(json.dumps([found.to_json() for found in audits]))
        return
    for found in audits:
        click.echo(
            f"generation {found.generation}: {found.sampled} sampled, "
            f"{len(found.rewarded)} rewarded but called wrong, {len(found.unrewarded)} unrewarded but called right "
            f"({found.disagreement_share:.2%})"
        )
    listed = [line for found in audits for line in found.rewarded] + [
        line for found in audits for line in found.unrewarded
    ]
    for line in listed[:show]:
        click.echo(
            f"  {'REWARDED ' if line.reward > 0 else 'unrewarded'} {line.trajectory_id[:12]} gold {line.answer!r:.60}"
        )
        click.echo(f"    {line.verifier}: {line.extracted_answer!r:.60} {visible(line.detail or '')}".rstrip())
        click.echo(f"    plain: {line.second_answer!r:.60} {visible(line.second_detail or '')}".rstrip())
    if len(listed) > show:
        click.echo(f"  … and {len(listed) - show} more: --show {len(listed)}")
