"""policy[g] as Dagster sees it: an event for each policy that the store has published."""

from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterInstance,
    EventLogRecord,
    MetadataValue,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from assets.experiment.checks import BLOCKING
from assets.experiment.stages import TRAINED_POLICY
from pipeline.config import Experiment
from pipeline.policies.refs import PolicyRef, pointer_path, published, resolve_published
from pipeline.store import Store

_CHECKS_LOOKED_AT = 200


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
    failed: list[str] = []
    if trained is None:
        return failed
    for name in BLOCKING.intersection(TRAINED_POLICY.checks):
        history = instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(key, name), _CHECKS_LOOKED_AT
        )
        evaluations = [record for record in history if record.run_id == trained.run_id]
        if any(record.status == AssetCheckExecutionRecordStatus.FAILED for record in evaluations):
            failed.append(name)
    return failed


def report_policy(
    instance: DagsterInstance, experiment: Experiment, policy: PolicyRef, generation: int, parents: dict[str, str]
) -> None:
    """Tell Dagster that policy[`generation`] is there, once for each policy."""
    key, partition = AssetKey([experiment.name, "policy"]), partition_name(generation)
    known = latest_materialization(instance, key, partition)
    seen = known.asset_materialization if known else None
    if seen and seen.metadata["policy_id"].value == policy.policy_id:
        return
    instance.report_runless_asset_event(
        AssetMaterialization(
            key,
            partition=partition,
            description=f"policy[{generation}] = {policy.policy_id}",
            metadata={
                "policy_id": policy.policy_id,
                "folder": MetadataValue.path(policy.path),
                "parents": MetadataValue.json(parents),
            },
        )
    )


def report_published(instance: DagsterInstance, store: Store, experiment: Experiment, generation: int) -> bool:
    """Tell Dagster of policy[`generation`] where it is published (by the training of the generation before)."""
    if not store.fs.exists(pointer_path(store, experiment.name, generation)):
        return False
    policy = resolve_published(store, experiment.name, generation)
    report_policy(instance, experiment, policy, generation, published(store, experiment.name, generation)["parents"])
    return True
