"""`tbrm base-policy` and `tbrm train`."""

from typing import TYPE_CHECKING

import click

from pipeline.cli.options import experiment_options, generation_option, json_option, print_report, replace_option

if TYPE_CHECKING:
    from pipeline.config import Experiment
    from pipeline.run.resumable import StageReport
    from pipeline.store import Store


@click.command("base-policy")
@experiment_options
@json_option
def base_policy(experiment: "Experiment", store: "Store", as_json: bool) -> "StageReport":
    """Prepare the base model (warm-started if the experiment says so) and publish it as policy[0]."""
    from trainer.stages.base_policy import run_base_policy

    return print_report(run_base_policy(experiment, store), as_json)


@click.command()
@experiment_options
@generation_option
@replace_option
@json_option
def train(experiment: "Experiment", store: "Store", generation: int, replace: bool, as_json: bool) -> "StageReport":
    """Train one generation on its replay mix and commit the new policy.

    A killed run goes on from its newest good checkpoint. The policy is a Hugging Face folder with policy.json,
    training.json (what trained it) and metrics.jsonl (one row an update).
    """
    from trainer.stages.train import run_train

    return print_report(run_train(experiment, store, generation, replace=replace), as_json)
