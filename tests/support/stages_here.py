"""Stages of the graph run in the test's own process: the same command, and the same report to Dagster."""

from unittest import mock

from dagster_pipes import PipesContext, PipesMappingParamsLoader, open_dagster_pipes

from assets.processes.child import run_command
from assets.processes.launcher import Ended, Launcher, Process


class Here(Launcher):
    """Runs the command of each stage in this process."""

    def run(self, process: Process) -> Ended:
        PipesContext._instance = None  # pyright: ignore[reportPrivateUsage] # one that an earlier stage has closed
        with (
            mock.patch("assets.graph.step.pass_on"),  # to itself, in one process
            open_dagster_pipes(params_loader=PipesMappingParamsLoader(process.env)) as context,
        ):
            code = run_command(list(process.command[3:]), context)
        return Ended(code, (), process.log)
