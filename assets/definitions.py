"""The Dagster code location: every experiment's graph, one broken file never taking the others down."""

from collections.abc import Sequence
from pathlib import Path

from dagster import Definitions, IOManagerDefinition, ResourceDefinition, get_dagster_logger, in_process_executor

from assets.experiment.importing import logged_trajectories
from assets.experiment.source import BrokenSource, ExperimentSource, read_experiments
from assets.graph.by_hand import by_hand_job, evaluated_policies
from assets.graph.experiment import broken_asset, experiment_graph
from assets.graph.resources import NothingPassedOn, StoreLocation
from assets.graph.sensors import logged_sensor, publish_sensor
from assets.processes.launcher import Launcher, LocalLauncher


def build_definitions(
    sources: Sequence[ExperimentSource],
    broken: Sequence[BrokenSource] = (),
    store: StoreLocation | None = None,
    launcher: Launcher | None = None,
) -> Definitions:
    """Everything Dagster serves for these experiments."""
    for source in broken:
        get_dagster_logger().error(f"an experiment was left out: {source.error}")
    graphs = [experiment_graph(source) for source in sources]
    return Definitions(
        assets=[
            logged_trajectories,
            evaluated_policies,
            *(a for g in graphs for a in g.assets),
            *(broken_asset(b) for b in broken),
        ],
        jobs=[by_hand_job(), *(job for graph in graphs for job in graph.jobs)],
        schedules=[schedule for graph in graphs for schedule in graph.schedules],
        sensors=[logged_sensor(), *(publish_sensor(source) for source in sources)],
        # Hard-coded: the fields of a resource are otherwise part of every run's config, the store's root among them.
        resources={
            "store": ResourceDefinition.hardcoded_resource(store or StoreLocation()),
            "launcher": ResourceDefinition.hardcoded_resource(launcher or LocalLauncher()),
            "io_manager": IOManagerDefinition.hardcoded_io_manager(NothingPassedOn()),
        },
        # Stages run in processes of their own already; a process for each step besides would cost two seconds a stage.
        executor=in_process_executor,
    )


def load_definitions(folder: Path | None = None) -> Definitions:
    """Definitions of every experiment in `folder` (default: `experiments/`)."""
    return build_definitions(*read_experiments(folder))


defs = load_definitions()
