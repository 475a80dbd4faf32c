"""The sampling and scoring stages as commands."""

import click

from pipeline.cli_options import experiment_options, generation_option, json_option, print_report, replace_option
from pipeline.config import Experiment
from pipeline.stage import StageReport
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
    from pipeline.rollouts import run_rollouts

    if engine and experiment.rollouts:
        chosen = experiment.rollouts.model_copy(update={"engine": engine})
        experiment = experiment.model_copy(update={"rollouts": chosen})
    return print_report(run_rollouts(experiment, store, generation, replace), as_json)


@click.command("ref-logprobs")
@experiment_options
@generation_option
@click.option("--dataset", help="Score a logged data set (`logged/NAME`) instead of the experiment's own rollouts.")
@click.option("--label", help="Write table ref_logprobs@LABEL beside the default one.")
@replace_option
@json_option
def ref_logprobs(
    experiment: Experiment,
    store: Store,
    generation: int,
    dataset: str | None,
    label: str | None,
    replace: bool,
    as_json: bool,
) -> StageReport:
    """Score the trajectories of one generation under the reference policy, with the trainer's own scoring."""
    from pipeline.ref_logprobs import run_ref_logprobs

    return print_report(run_ref_logprobs(experiment, store, generation, dataset, label, replace), as_json)
