"""Dagster's history of an experiment: it is told what the store holds, and asked what became of the runs."""

from collections.abc import Collection, Sequence

from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DynamicPartitionsDefinition,
    EventLogRecord,
    MetadataValue,
    RunsFilter,
)

# What the states of backfills and checks are called, for which Dagster has no public names.
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES as COMPLETED,
)

from assets.experiment.checks import BLOCKING
from assets.experiment.stages import TRAINED_POLICY
from pipeline.config import Experiment, stage_hash
from pipeline.policies.refs import pointer_path, published, resolve_published
from pipeline.store import Manifest, Store

LOGGED_KEY = ["logged_trajectories"]
LOGGED_PARTITIONS = DynamicPartitionsDefinition(name="logged_datasets")
EXPERIMENT_TAG = "tbrm/experiment"
"""Run tag of an experiment's jobs, and asset tag of its assets."""
PARTITION_TAG, BACKFILL_TAG, DATA_VERSION_TAG = "dagster/partition", "dagster/backfill", "dagster/data_version"
"""Dagster's own tags, by their documented names."""
UNDER_WAY = (
    *(DagsterRunStatus.NOT_STARTED, DagsterRunStatus.QUEUED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED),
    *(DagsterRunStatus.CANCELING, DagsterRunStatus.SUSPENDED),
)
_RUNS_LOOKED_AT = 100


def partition_name(generation: int) -> str:
    """Partition key of a generation: 7 -> "0007"."""
    return f"{generation:04d}"


def latest_materialization(instance: DagsterInstance, key: AssetKey, partition: str | None) -> EventLogRecord | None:
    """The newest materialization event of an asset's partition."""
    wanted = AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
    records = instance.fetch_materializations(wanted, limit=1).records
    return records[0] if records else None


def failed_checks(instance: DagsterInstance, experiment: Experiment, generation: int) -> list[str]:
    """Blocking checks that failed in the run that last materialized trained_policy[g]."""
    key = AssetKey([experiment.name, TRAINED_POLICY.name])
    trained = latest_materialization(instance, key, partition_name(generation))
    if trained is None:
        return []
    entries = instance.all_logs(trained.run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [entry.dagster_event.asset_check_evaluation_data for entry in entries if entry.dagster_event]
    return sorted({one.check_name for one in found if one.asset_key == key and not one.passed} & BLOCKING)


def report_published(instance: DagsterInstance, store: Store, experiment: Experiment, generation: int) -> bool:
    """Tell Dagster of policy[`generation`] where it is published, by the training of the generation before.

    A policy that Dagster's newest event of that partition names already is not told again.
    """
    if not store.fs.exists(pointer_path(store, experiment.name, generation)):
        return False
    key, partition = AssetKey([experiment.name, "policy"]), partition_name(generation)
    policy = resolve_published(store, experiment.name, generation)
    known = latest_materialization(instance, key, partition)
    seen = known.asset_materialization if known else None
    if seen and seen.metadata["policy_id"].value == policy.policy_id:
        return True
    parents = published(store, experiment.name, generation)["parents"]
    instance.report_runless_asset_event(
        AssetMaterialization(
            key,
            partition=partition,
            description=f"policy[{generation}] = {policy.policy_id}",
            tags={DATA_VERSION_TAG: policy.policy_id},
            metadata={
                "policy_id": policy.policy_id,
                "folder": MetadataValue.path(policy.path),
                "parents": MetadataValue.json(parents),
            },
        )
    )
    return True


def register_logged(instance: DagsterInstance, store: Store) -> list[str]:
    """Make every logged data set of the store a materialized partition; returns those that are new."""
    name = str(LOGGED_PARTITIONS.name)
    known = set(instance.get_dynamic_partitions(name))
    found = [d.removeprefix("logged/") for d in store.datasets() if d.startswith("logged/")]
    new = [
        data_set for data_set in found if data_set not in known and store.generations(f"logged/{data_set}", "rollouts")
    ]
    if new:
        instance.add_dynamic_partitions(name, new)
    for data_set in new:
        manifests = [
            store.partition(f"logged/{data_set}", "rollouts", g).manifest()
            for g in store.generations(f"logged/{data_set}", "rollouts")
        ]
        instance.report_runless_asset_event(
            AssetMaterialization(
                AssetKey(LOGGED_KEY),
                partition=data_set,
                description=f"found in the store at {store.join('logged', data_set)}",
                tags={DATA_VERSION_TAG: data_version_of(manifests)},
                metadata={
                    "dagster/row_count": sum(m.rows for m in manifests),
                    "manifest_hashes": MetadataValue.json([m.hash for m in manifests]),
                },
            )
        )
    return new


def data_version_of(manifests: Sequence[Manifest]) -> str:
    """What Dagster calls the content of some partitions: the hash of one, or of the hashes of several."""
    return manifests[0].hash if len(manifests) == 1 else stage_hash(*(manifest.hash for manifest in manifests))


def runs_of(
    instance: DagsterInstance,
    experiment: str,
    partition: str | None = None,
    statuses: Sequence[DagsterRunStatus] | None = None,
) -> Collection[DagsterRun]:
    """Runs that make assets of an experiment, newest first, however they were started.

    A run that was started in the graph belongs to none of our jobs and has none of their tags. So its assets tell.
    """
    wanted = RunsFilter(statuses=statuses, tags={PARTITION_TAG: partition} if partition else None)
    runs = instance.get_runs(wanted, limit=_RUNS_LOOKED_AT)
    return [run for run in runs if _works_on(run, experiment)]


def keep_checks(instance: DagsterInstance, run: DagsterRun) -> list[str]:
    """Tell the earlier results of the checks that a canceled run was to make and has not: they hold as before.

    Dagster would show these checks as skipped. Returns their names.
    """
    storage = instance.event_log_storage
    told: list[str] = []
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED):
        planned = entry.dagster_event.asset_check_planned_data if entry.dagster_event else None
        if planned is None:
            continue
        history = storage.get_asset_check_execution_history(
            planned.asset_check_key,
            limit=_RUNS_LOOKED_AT,
            partition_filter=PartitionKeyFilter(key=run.tags.get(PARTITION_TAG)),
        )
        if not history or history[0].run_id != run.run_id or history[0].status in COMPLETED:
            continue  # the run has made it, or a later one is to make it
        before = next((one.evaluation for one in history if one.status in COMPLETED), None)
        if before is not None:
            instance.report_runless_asset_event(before)
            told.append(planned.asset_check_key.to_user_string())
    return told


def end_backfill(instance: DagsterInstance, run: DagsterRun, experiment: str) -> None:
    """Where a generation fails in a backfill that trains: cancel what waits behind it, because it needs its policy."""
    backfill_id = run.tags.get(BACKFILL_TAG)
    backfill = instance.get_backfill(backfill_id) if backfill_id else None
    trained = AssetKey([experiment, TRAINED_POLICY.name])
    if backfill is None or trained not in (backfill.asset_selection or ()):
        return
    if backfill.status is BulkActionStatus.REQUESTED:
        instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELING))
    waiting = RunsFilter(statuses=[DagsterRunStatus.QUEUED], tags={BACKFILL_TAG: backfill.backfill_id})
    for queued in instance.get_runs(waiting):
        instance.report_run_canceled(queued, f"run {run.run_id} of the same backfill failed: later generations need it")


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
    return run.tags.get(EXPERIMENT_TAG) == experiment  # a whole job, started on its launchpad


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
