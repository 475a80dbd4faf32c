"""Logged trajectories: data sets made by any behaviour policy, a dynamic partition each, for all experiments."""

from collections.abc import Sequence

from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DynamicPartitionsDefinition,
    MetadataValue,
)

from pipeline.config import Experiment
from pipeline.store import Store

LOGGED_KEY = ["logged_trajectories"]
LOGGED_PARTITIONS = DynamicPartitionsDefinition(name="logged_datasets")


def logged_names(experiment: Experiment) -> Sequence[str]:
    """Names of the logged data sets in the experiment's replay mix."""
    return [source.name for source in experiment.replay.logged]


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
                metadata={
                    "dagster/row_count": sum(m.rows for m in manifests),
                    "manifest_hashes": MetadataValue.json([m.hash for m in manifests]),
                },
            )
        )
    return new
