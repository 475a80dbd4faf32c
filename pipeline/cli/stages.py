"""The sampling and scoring stages as commands, and the engine that may stay warm between them."""

import sys

import click

from pipeline.cli.options import (
    experiment_options,
    generation_option,
    json_option,
    labelling_options,
    places,
    print_report,
    print_reports,
    replace_option,
)
from pipeline.config import Experiment, changed_experiment
from pipeline.run.report import StageReport
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
    experiment: Experiment, store: Store, generation: int, engine: str | None, replace: bool, as_json: bool
) -> StageReport:
    """Sample the trajectories of one generation from policy[g]."""
    from pipeline.sampling.rollouts import run_rollouts

    if engine and experiment.rollouts:
        experiment = changed_experiment(experiment, [f"rollouts.engine={engine}"])
    return print_report(run_rollouts(experiment, store, generation, replace), as_json)


@click.command("rollout-service")
@experiment_options
def rollout_service(experiment: Experiment, store: Store) -> None:
    """Keep one vLLM engine for all generations of an experiment with `rollouts.warm`, until this command is ended.

    `tbrm run` does this by itself; beside `tbrm ui`, run this command on the machine where the stages run.
    """
    from pipeline.run.shards import root_for_workers
    from pipeline.sampling.engines.warm_engine import socket_path
    from pipeline.sampling.service import serve

    path = socket_path(root_for_workers(store), experiment.name)
    sys.stderr.write(f"rollout service of {experiment.name} at {path}\n")
    serve(path)


@click.command("logged-labels")
@experiment_options
@json_option
def logged_labels(experiment: Experiment, store: Store, as_json: bool) -> StageReport:
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
    experiment: Experiment,
    store: Store,
    generation: int | None,
    logged: str | None,
    label: str | None,
    replace: bool,
    as_json: bool,
) -> StageReport:
    """Score trajectories under the experiment's reference policy, with the trainer's own scoring.

    Those of a logged data set are kept under a version named after the reference policy, unless --label names another:
    one data set serves experiments of different references.
    """
    from pipeline.reference import run_ref_logprobs

    dataset = f"logged/{logged}" if logged else experiment.name
    found = places(ctx, store, dataset, logged, generation)
    reports = (run_ref_logprobs(experiment, store, g, dataset, label, replace) for g in found)
    return print_reports(reports, as_json)
