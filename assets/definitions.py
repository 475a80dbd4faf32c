"""The Dagster code location: the graph of every experiment. A broken file does not take the others down."""

from collections.abc import Sequence
from pathlib import Path

from dagster import (
    DagsterError,
    Definitions,
    IOManagerDefinition,
    ResourceDefinition,
    define_asset_job,
    get_dagster_logger,
    in_process_executor,
)

from assets.experiment.source import BrokenSource, ExperimentSource, read_experiments
from assets.graph.branches import branches
from assets.graph.by_hand import EVALUATION_JOB, evaluated_policies, logged_trajectories
from assets.graph.experiment import ExperimentGraph, broken_asset, experiment_graph
from assets.graph.sensors import canceled_sensor, logged_sensor, publish_sensor
from assets.graph.step import NothingPassedOn, StoreLocation
from assets.processes.launcher import Launcher, LocalLauncher
from pipeline.store import Store, open_store


def build_definitions(
    sources: Sequence[ExperimentSource],
    broken: Sequence[BrokenSource] = (),
    store: StoreLocation | None = None,
    launcher: Launcher | None = None,
) -> Definitions:
    """Everything Dagster serves for these experiments."""
    graphs: list[ExperimentGraph] = []
    loaded: list[ExperimentSource] = []
    left_out = list(broken)
    for source in _origins_first(sources):
        try:
            origin = next((one for one in loaded if source.fork and one.name == source.fork.experiment), None)
            graphs.append(experiment_graph(source, origin))
            loaded.append(source)
        except DagsterError as error:
            left_out.append(BrokenSource(Path(source.path), f"{source.path}: Dagster cannot load it: {error}"))
    for source in left_out:
        get_dagster_logger().error(f"an experiment was left out: {source.error}")
    by_hand = define_asset_job(
        EVALUATION_JOB, [evaluated_policies], description="Measure any policy on any benchmarks, by hand."
    )
    return Definitions(
        assets=[
            logged_trajectories,
            evaluated_policies,
            branches,
            *(a for g in graphs for a in g.assets),
            *(broken_asset(source) for source in left_out),
        ],
        jobs=[by_hand, *(job for graph in graphs for job in graph.jobs)],
        schedules=[schedule for graph in graphs for schedule in graph.schedules],
        sensors=[logged_sensor(), canceled_sensor(), *(publish_sensor(source) for source in loaded)],
        # Hard-coded: otherwise every run could set the fields of a resource in its config, such as the store's root.
        resources={
            "store": ResourceDefinition.hardcoded_resource(store or StoreLocation()),
            "launcher": ResourceDefinition.hardcoded_resource(launcher or LocalLauncher()),
            "io_manager": IOManagerDefinition.hardcoded_io_manager(NothingPassedOn()),
        },
        # Each stage runs in a process of its own anyway. Another process for each step would cost two seconds a stage.
        executor=in_process_executor,
    )


def _origins_first(sources: Sequence[ExperimentSource]) -> list[ExperimentSource]:
    """The experiments in an order in which a branch comes after what it was forked from."""
    by_name = {source.name: source for source in sources}

    def depth(source: ExperimentSource) -> int:
        found = 0
        while source.fork and (above := by_name.get(source.fork.experiment)) and found < len(sources):
            source, found = above, found + 1
        return found

    return sorted(sources, key=depth)


def load_definitions(folder: Path | None = None, store: Store | None = None) -> Definitions:
    """Definitions of every experiment in `folder` (default: `experiments/`), and of those that only the store has."""
    try:
        found = read_experiments(folder, store)
    except OSError as error:  # an object store that does not answer
        get_dagster_logger().error(f"branches are not shown, because the store cannot be read: {error}")
        found = read_experiments(folder)
    return build_definitions(*found)


defs = load_definitions(store=open_store())
