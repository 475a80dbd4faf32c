"""`tbrm rollout-service`: the warm engine of an experiment, in the foreground."""

import sys

import click

from pipeline.cli.options import experiment_options
from pipeline.config import Experiment
from pipeline.store import Store


@click.command("rollout-service")
@experiment_options
def rollout_service(experiment: Experiment, store: Store) -> None:
    """Keep one vLLM engine for all generations of an experiment with `rollouts.warm`, until this command is ended.

    `tbrm run` does this by itself; beside `tbrm ui`, run this command on the machine where the stages run.
    """
    from pipeline.run.shards import root_for_workers
    from pipeline.sampling.service.server import serve
    from pipeline.sampling.service.socket import socket_path

    path = socket_path(root_for_workers(store), experiment.name)
    sys.stderr.write(f"rollout service of {experiment.name} at {path}\n")
    serve(path)
