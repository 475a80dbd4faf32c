"""`tbrm run`: the loop to its end in one process, through the same assets the UI shows, and in the same history."""

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
from dagster._core.utils import make_new_run_id

from assets.app.terminal import Terminal
from assets.definitions import build_definitions
from assets.experiment.alike import check_whole
from assets.experiment.logged import register_logged
from assets.experiment.source import ExperimentSource
from assets.experiment.stages import (
    BASE_SCORES,
    TRAINED_POLICY,
    Stage,
    is_evaluated,
    is_finished,
    looped_stages,
    stages_of,
)
from assets.graph.experiment import base_job, generation_job
from assets.graph.history import failed_checks, latest_materialization, partition_name, report_published
from assets.graph.resources import StoreLocation
from assets.graph.runs import was_interrupted, why_failed
from assets.graph.sensors import HEADLESS_TAG
from assets.graph.step import PROGRESS_TAG
from assets.processes.launcher import Launcher
from assets.processes.rollout_service import rollout_service
from pipeline.errors import TbrmError
from pipeline.policies.refs import pointer_path
from pipeline.run.forks import first_generation
from pipeline.store import Store

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_UNFINISHED = [
    DagsterRunStatus.STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.CANCELING,
    DagsterRunStatus.NOT_STARTED,
]


@dataclass(frozen=True)
class Loop:
    """All that the steps of the loop share."""

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

    The caller holds the experiment's lock. Raises StoreError, before anything runs, where the store has what other
    settings made; TbrmError with the failed stage's own message.
    """
    store = location.open()
    check_whole(store, source.experiment)
    source = source.keep(store)
    definitions = build_definitions([source], store=location, launcher=launcher)
    jobs = {name: definitions.resolve_job_def(name) for name in (base_job(source.name), generation_job(source.name))}
    loop = Loop(source, store, instance, jobs, terminal)
    close_dead_runs(instance, source.name)
    first = first_generation(store, source.name)
    once = [s for s in stages_of(source.experiment) if not s.partitioned and not (first and s is BASE_SCORES)]
    last = _run(loop, base_job(source.name), once, None)
    register_logged(instance, store)
    report_published(instance, store, source.experiment, 0)
    log = Path(instance.storage_directory()) / f"rollout-service-{source.name}.log"
    with rollout_service(source.experiment, loop.store, [*source.arguments(), *location.arguments()], log) as service:
        for generation in range(first, source.experiment.generations):
            terminal.generation(generation, source.experiment.generations)
            due = [s for s in looped_stages(source.experiment) if is_evaluated(s, source.experiment, generation)]
            if service is not None and not all(_is_done(loop, stage, generation) for stage in due):
                service.ensure()
            last = _run(loop, generation_job(source.name), due, generation) or last
            _report(loop, generation)
    return last


def close_dead_runs(instance: DagsterInstance, experiment: str) -> None:
    """Mark runs that an earlier, killed `tbrm run` left open as failed, and give their pool slots back."""
    open_runs = RunsFilter(statuses=_UNFINISHED, tags={HEADLESS_TAG: experiment})
    for run in instance.get_runs(open_runs):
        instance.report_run_failed(run, "the `tbrm run` process that executed this run has ended")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _run(loop: Loop, job: str, stages: Sequence[Stage], generation: int | None) -> str | None:
    """One Dagster run of the stages that are not done yet; None when there is nothing to do."""
    partition = None if generation is None else partition_name(generation)
    missing = [stage for stage in stages if not _is_done(loop, stage, generation)]
    if not missing:
        return None
    run_id = make_new_run_id()
    loop.instance.add_event_listener(run_id, loop.terminal.show)
    with loop.terminal.stages():
        result = loop.jobs[job].execute_in_process(
            run_config=_QUIET,
            instance=loop.instance,
            partition_key=partition,
            asset_selection=[AssetKey([loop.name, stage.name]) for stage in missing],
            tags={HEADLESS_TAG: loop.name, PROGRESS_TAG: "0.5" if loop.terminal.is_live else "5"},
            run_id=run_id,
            raise_on_error=False,
        )
    if not result.success:
        if was_interrupted(loop.instance, run_id):
            raise KeyboardInterrupt
        raise TbrmError(why_failed(loop.instance, run_id))
    return run_id


def _is_done(loop: Loop, stage: Stage, generation: int | None) -> bool:
    """Committed in the store and in Dagster's history: what another command made is still run once, to be shown."""
    if not is_finished(stage, loop.store, loop.source.experiment, generation or 0):
        return False
    if stage is TRAINED_POLICY and not _is_published(loop, (generation or 0) + 1):
        return False
    partition = None if generation is None else partition_name(generation)
    return latest_materialization(loop.instance, AssetKey([loop.name, stage.name]), partition) is not None


def _report(loop: Loop, generation: int) -> None:
    """Tell Dagster of policy[g+1]. Raises TbrmError where the training of generation g did not publish one."""
    if not report_published(loop.instance, loop.store, loop.source.experiment, generation + 1):
        failed = failed_checks(loop.instance, loop.source.experiment, generation) or ["made_progress"]
        raise TbrmError(
            f"policy[{generation + 1}] is not published: {', '.join(failed)} failed on trained_policy[{generation}]"
        )


def _is_published(loop: Loop, generation: int) -> bool:
    return loop.store.fs.exists(pointer_path(loop.store, loop.name, generation))
