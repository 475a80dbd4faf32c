"""Questions about Dagster's runs: which work on an experiment, and why one failed."""

from collections.abc import Collection, Sequence

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.tags import PARTITION_NAME_TAG

EXPERIMENT_TAG = "tbrm/experiment"
"""Run tag of an experiment's jobs, and asset tag of its assets."""
_RUNS_LOOKED_AT = 100


def runs_of(
    instance: DagsterInstance,
    experiment: str,
    partition: str | None = None,
    statuses: Sequence[DagsterRunStatus] | None = None,
) -> Collection[DagsterRun]:
    """Runs that make assets of an experiment, newest first, however they were started.

    A run started in the graph belongs to no job of ours and has none of its tags: the assets it makes tell.
    """
    wanted = RunsFilter(statuses=statuses, tags={PARTITION_NAME_TAG: partition} if partition else None)
    runs = instance.get_runs(wanted, limit=_RUNS_LOOKED_AT)
    return [run for run in runs if _works_on(run, experiment)]


def was_interrupted(instance: DagsterInstance, run_id: str) -> bool:
    """Whether a step of the run was ended from outside: Ctrl-C, or Terminate."""
    errors = [error for _, error in _failures(instance, run_id)]
    return any(cls_name == DagsterExecutionInterruptedError.__name__ for cls_name in errors)


def why_failed(instance: DagsterInstance, run_id: str) -> str:
    """The message of the first failed step of a run."""
    return next((message for message, _ in _failures(instance, run_id)), f"run {run_id} failed before its first stage")


def _works_on(run: DagsterRun, experiment: str) -> bool:
    if run.asset_selection:
        return any(key.path[0] == experiment for key in run.asset_selection)
    return run.tags.get(EXPERIMENT_TAG) == experiment  # a whole job, started in its launchpad


def _failures(instance: DagsterInstance, run_id: str) -> list[tuple[str, str]]:
    """(message, class of the error) of each failed step, the stage's own message where it gave one."""
    found: list[tuple[str, str]] = []
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE):
        failure = entry.dagster_event.step_failure_data if entry.dagster_event else None
        if failure is None:
            continue
        told = failure.user_failure_data.description if failure.user_failure_data else None
        error = (failure.error.cause or failure.error) if failure.error else None
        cls_name = (failure.error.cls_name or "") if failure.error else ""
        found.append((told or (error.message.strip() if error else "no message"), "" if told else cls_name))
    return found
