"""Labels that logged data sets of an experiment still lack: rewards, and log-probs of this experiment's reference."""

import time
from collections.abc import Iterator

from pipeline.config import Experiment
from pipeline.config.replay import LoggedSource
from pipeline.config.training import OBJECTIVE_NEEDS
from pipeline.errors import StoreError
from pipeline.reference import reference_id, reference_label, run_ref_logprobs
from pipeline.rewards.stage import run_rewards
from pipeline.run.resumable import StageReport
from pipeline.store import Partition, Store


def run_logged_labels(experiment: Experiment, store: Store) -> StageReport:
    """Label every logged data set of `replay.logged` that has no version chosen in the YAML, as far as it is missing.

    Rewards that came with the log stay as they are. Raises StoreError when a data set is not in the store.
    """
    started = time.monotonic()
    missing = list(missing_labels(experiment, store))
    rows = 0
    for partition in missing:
        stage = run_rewards if partition.table == "rewards" else run_ref_logprobs
        rows += stage(experiment, store, partition.generation, partition.dataset).rows
    names = ", ".join(source.name for source in experiment.replay.logged)
    metrics = {"data_sets": names, "partitions_labelled": len(missing)}
    return StageReport("logged_labels", experiment.name, 0, rows, time.monotonic() - started, not missing, metrics)


def missing_labels(experiment: Experiment, store: Store) -> Iterator[Partition]:
    """Partitions `rewards` and `ref_logprobs@<reference>` that training will ask for and that are not committed."""
    for logged in experiment.replay.logged:
        for generation in _generations(store, logged):
            for partition in _wanted(experiment, store, logged, generation):
                if not partition.is_committed():
                    yield partition


def _generations(store: Store, logged: LoggedSource) -> list[int]:
    found = store.generations(f"logged/{logged.name}", "rollouts")
    if not found:
        raise StoreError(
            f"replay.logged: there is no data set {logged.name!r} in {store.root}; "
            f"`tbrm import --name {logged.name} FILES` makes it"
        )
    return found if logged.generation is None else [logged.generation]


def _wanted(experiment: Experiment, store: Store, logged: LoggedSource, generation: int) -> Iterator[Partition]:
    dataset = f"logged/{logged.name}"
    if logged.rewards is None:
        yield store.partition(dataset, "rewards", generation)
    if logged.ref_logprobs is None and OBJECTIVE_NEEDS[experiment.training.objective].reference:
        label = reference_label(reference_id(store, experiment))
        yield store.partition(dataset, f"ref_logprobs@{label}", generation)
