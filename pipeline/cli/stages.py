"""The stages that sample, label and score as commands, and the engine that may stay warm between generations."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import (
    experiment_argument,
    experiment_option,
    experiment_options,
    generation_option,
    json_option,
    labelling_options,
    places,
    print_json,
    print_report,
    print_reports,
    replace_option,
    root_option,
    set_option,
    split_target,
    store_options,
    tracked_report,
)
from pipeline.terminal import visible

if TYPE_CHECKING:
    from pipeline.config import Experiment
    from pipeline.run.resumable import StageReport
    from pipeline.store import Store


@click.command()
@experiment_options
@generation_option
@click.option(
    "--engine", type=click.Choice(["auto", "transformers", "vllm"]), help="Instead of the experiment's engine."
)
@replace_option
@json_option
def rollouts(
    experiment: "Experiment", store: "Store", generation: int, engine: str | None, replace: bool, as_json: bool
) -> "StageReport":
    """Sample the trajectories of one generation from policy[g]."""
    from pipeline.config import changed_experiment
    from pipeline.sampling.rollouts import run_rollouts

    if engine and experiment.rollouts:
        experiment = changed_experiment(experiment, [f"rollouts.engine={engine}"])
    return print_report(run_rollouts(experiment, store, generation, replace), as_json)


@click.command("rollout-service")
@experiment_options
@json_option
def rollout_service(experiment: "Experiment", store: "Store", as_json: bool) -> None:
    """Keep one vLLM engine for all generations of an experiment with `rollouts.warm`, until this command is ended.

    `tbrm run` does this by itself; beside `tbrm ui`, run this command on the machine where the stages run.
    """

    from pipeline.sampling.engines.warm_engine import socket_path
    from pipeline.sampling.service import serve

    path = socket_path(store.root_for_workers, experiment.name)
    sys.stderr.write(f"rollout service of {experiment.name} at {path}\n")
    if as_json:
        print_json({"experiment": experiment.name, "socket": str(path)})
    serve(path)


@click.command("logged-labels")
@experiment_options
@json_option
def logged_labels(experiment: "Experiment", store: "Store", as_json: bool) -> "StageReport":
    """Give the logged data sets of `replay.logged` the rewards and reference log-probs that they still lack."""
    from pipeline.logged.labels import run_logged_labels

    return print_report(run_logged_labels(experiment, store), as_json)


@click.command("ref-logprobs")
@experiment_options
@labelling_options
@replace_option
@json_option
@click.pass_context
def ref_logprobs(
    ctx: click.Context,
    experiment: "Experiment",
    store: "Store",
    generation: int | None,
    logged: str | None,
    label: str | None,
    replace: bool,
    as_json: bool,
) -> "StageReport":
    """Score trajectories under the experiment's reference policy, with the trainer's own scoring.

    Those of a logged data set are kept under a version named after the reference policy, unless --label names another:
    one data set serves experiments of different references.
    """
    from pipeline.reference import run_ref_logprobs

    dataset, found = places(ctx, store, experiment, logged, generation)
    reports = (run_ref_logprobs(experiment, store, g, dataset, label, replace) for g in found)
    return print_reports(reports, as_json)


class _ExperimentOrSubcommand(click.Group):
    """A group that takes EXPERIMENT[:GENERATION] where no subcommand stands, as other commands do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            experiment, generation = split_target(args[0])
            args = ["-e", experiment, *(["-g", str(generation)] if generation is not None else []), *args[1:]]
        return super().parse_args(ctx, args)


@click.group(
    cls=_ExperimentOrSubcommand,
    invoke_without_command=True,
    subcommand_metavar="[EXPERIMENT[:GENERATION] | COMMAND [ARGS]...]",
)
@experiment_option
@labelling_options
@click.option("--verifier", help="Grade every row with this verifier, whatever its prompt names.")
@replace_option
@set_option
@root_option
@json_option
@click.pass_context
def rewards(
    ctx: click.Context,
    named: str | None,
    generation: int | None,
    logged: str | None,
    label: str | None,
    verifier: str | None,
    replace: bool,
    overrides: Sequence[str],
    root: str | None,
    as_json: bool,
) -> "StageReport | None":
    """Label trajectories with the experiment's verifier."""
    if ctx.invoked_subcommand:
        return None
    if named is None:  # the group cannot require it: its subcommands bring their own
        raise click.MissingParameter(ctx=ctx, param_type="argument", param_hint="'EXPERIMENT[:GENERATION]'")
    from pipeline.config import load_experiment
    from pipeline.rewards.stage import run_rewards
    from pipeline.store import open_store

    experiment, store = load_experiment(named, overrides), open_store(root)
    dataset, found = places(ctx, store, experiment, logged, generation)
    reports = (run_rewards(experiment, store, g, dataset, label, verifier, replace) for g in found)
    return tracked_report(experiment, store, print_reports(reports, as_json))


@rewards.command()
@experiment_argument()
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
    store: "Store",
    as_json: bool,
) -> None:
    """Grade a sample of EXPERIMENT's labels again by an independent method and list where the two differ.

    Rewarded responses that the second method calls wrong come first: they are what a policy would learn to exploit.
    """
    from pipeline.config import load_experiment
    from pipeline.rewards.audit import audit_experiment

    audits = audit_experiment(load_experiment(experiment, overrides), store, generations, dataset, sample)
    if as_json:
        print_json([found.to_json() for found in audits])
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
