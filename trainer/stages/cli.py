"""`tbrm train`."""

import click

from pipeline.cli.options import experiment_options, generation_option, json_option, print_report, replace_option
from pipeline.config import Experiment
from pipeline.run.resumable import StageReport
from pipeline.store import Store


@click.command()
@experiment_options
@generation_option
@replace_option
@json_option
def train(experiment: Experiment, store: Store, generation: int, replace: bool, as_json: bool) -> StageReport:
    """Train one generation on its replay mix and commit the new policy.

    A killed run goes on from its newest good checkpoint. The policy is a Hugging Face folder with policy.json,
    training.json (what trained it) and metrics.jsonl (one row an update).
    """
    from trainer.stages.train import run_train

    return print_report(run_train(experiment, store, generation, replace=replace), as_json)
