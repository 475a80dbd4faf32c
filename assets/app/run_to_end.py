"""`tbrm run`: the loop to its end in one process, through the same assets the UI shows, and in the same history."""

import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    JobDefinition,
    RunsFilter,
)

# Dagster has no public way to execute a run that belongs to a code location in this process.
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from assets.app.access import DEFINITIONS
from assets.app.terminal import Terminal
from assets.definitions import build_definitions
from assets.experiment.source import ExperimentSource, check_whole
from assets.experiment.stages import Stage, loop
from assets.experiment.status import cost_of_run
from assets.graph.experiment import base_job, generation_job
from assets.graph.history import (
    PARTITION_TAG,
    failed_checks,
    latest_materialization,
    partition_name,
    register_logged,
    report_published,
    was_interrupted,
    why_failed,
)
from assets.graph.sensors import HEADLESS_TAG
from assets.graph.step import PROGRESS_TAG, StoreLocation
from assets.processes.launcher import Launcher
from assets.processes.rollout_service import rollout_service
from pipeline.errors import TbrmError
from pipeline.policies.refs import pointer_path
from pipeline.run.configurations import first_generation, keep_experiment
from pipeline.store import Store

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_NEVER_RETRIED = {"dagster/max_retries": "0"}
"""Run tag: a daemon that sees a killed run leaves it to the next `tbrm run`, which goes on from there."""
_ORIGIN = RemoteRepositoryOrigin(
    ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(executable_path=sys.executable, module_name=DEFINITIONS), location_name=DEFINITIONS
    ),
    SINGLETON_REPOSITORY_NAME,
)
"""The code location of `tbrm ui`: its pages show only runs that belong to one."""
_UNFINISHED = [
    DagsterRunStatus.STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.CANCELING,
    DagsterRunStatus.NOT_STARTED,
]


@dataclass(frozen=True)
class Runner:
    """Runs stages of one experiment as Dagster runs in this process."""

    source: ExperimentSource
    store: Store
    instance: DagsterInstance
    jobs: dict[str, JobDefinition]
    terminal: Terminal

    @property
    def name(self) -> str:
        return self.source.name


def run_loop(
    source: ExperimentSource, location: StoreLocation, launcher: Launcher, instance: DagsterInstance, terminal: Terminal
) -> str | None:
    """Run every generation that is not finished yet; each is one Dagster run. Returns the id of the last run, if any.

    The caller holds the experiment's lock. Raises StoreError, before anything runs, where the store has results
    of other settings; TbrmError with the failed stage's own message.
    """
    store = location.open()
    check_whole(store, source.experiment)
    keep_experiment(store, source.experiment)
    source = source.keep(store)
    experiment = source.experiment
    definitions = build_definitions([source], store=location, launcher=launcher)
    jobs = {name: definitions.resolve_job_def(name) for name in (base_job(source.name), generation_job(source.name))}
    runner = Runner(source, store, instance, jobs, terminal)
    close_dead_runs(instance, source.name)
    terminal.say(cost_of_run(store, experiment))
    log = Path(instance.storage_directory()) / f"rollout-service-{source.name}.log"
    last = None
    with rollout_service(experiment, store, [*source.arguments(), *location.arguments()], log) as service:
        for generation, stages in loop(experiment, first_generation(store, source.name)):
            missing = [stage for stage in stages if not _is_done(runner, stage, generation)]
            if generation is not None:
                terminal.generation(generation, experiment.generations)
                if service is not None and missing:
                    service.ensure()
            last = _run(runner, missing, generation) or last
            if generation is None:
                register_logged(instance, store)
                report_published(instance, store, experiment, 0)
            else:
                _report(runner, generation)
    return last


def close_dead_runs(instance: DagsterInstance, experiment: str) -> None:
    """Mark runs that an earlier, killed `tbrm run` left open as failed, and give their pool slots back."""
    open_runs = RunsFilter(statuses=_UNFINISHED, tags={HEADLESS_TAG: experiment})
    for run in instance.get_runs(open_runs):
        instance.report_run_failed(run, "the `tbrm run` process that executed this run has ended")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _run(runner: Runner, stages: Sequence[Stage], generation: int | None) -> str | None:
    """One Dagster run of the stages, by its id; None when there are none."""
    if not stages:
        return None
    job = base_job(runner.name) if generation is None else generation_job(runner.name)
    run_id = str(uuid.uuid4())
    runner.instance.add_event_listener(run_id, runner.terminal.show)
    partition = {} if generation is None else {PARTITION_TAG: partition_name(generation)}
    run = runner.instance.create_run_for_job(
        runner.jobs[job],
        run_id=run_id,
        run_config=_QUIET,
        tags={**runner.jobs[job].run_tags, **partition, **_NEVER_RETRIED, HEADLESS_TAG: runner.name}
        | {PROGRESS_TAG: "0.5" if runner.terminal.is_live else "5"},
        asset_selection=frozenset(AssetKey([runner.name, stage.name]) for stage in stages),
        remote_job_origin=_ORIGIN.get_job_origin(job),
    )
    with runner.terminal.stages():
        result = execute_run(InMemoryJob(runner.jobs[job]), run, runner.instance)
    if not result.success:
        if was_interrupted(runner.instance, run_id):
            raise KeyboardInterrupt
        raise TbrmError(why_failed(runner.instance, run_id))
    return run_id


def _is_done(runner: Runner, stage: Stage, generation: int | None) -> bool:
    """Whether the result is in the store, its policy published, and Dagster told of it.

    What another command made is run once more, so that Dagster's history shows it: the stage itself has nothing to do.
    """
    of = generation or 0
    if not stage.is_finished(runner.store, runner.source.experiment, of):
        return False
    if stage.publishes is not None:
        pointer = pointer_path(runner.store, runner.name, of + stage.publishes)
        if not runner.store.fs.exists(pointer):
            return False
    partition = None if generation is None else partition_name(generation)
    return latest_materialization(runner.instance, AssetKey([runner.name, stage.name]), partition) is not None


def _report(runner: Runner, generation: int) -> None:
    """Tell Dagster of policy[g+1]. Raises TbrmError where the training of generation g did not publish one."""
    if not report_published(runner.instance, runner.store, runner.source.experiment, generation + 1):
        failed = failed_checks(runner.instance, runner.source.experiment, generation) or ["made_progress"]
        raise TbrmError(
            f"policy[{generation + 1}] is not published: {', '.join(failed)} failed on trained_policy[{generation}]"
        )
