"""The asset by which a user of the UI retrains from a generation on: a branch, an experiment of its own."""

from typing import Any

from dagster import AssetExecutionContext, Config, DynamicPartitionsDefinition, Failure, MaterializeResult, asset
from pydantic import Field

from assets.experiment.run_config import check_name, check_overrides
from assets.experiment.source import ExperimentSource, branch_experiment, read_known
from assets.graph.history import partition_name, report_published
from assets.graph.step import StoreLocation, in_the_ui
from pipeline.config import Experiment, build_experiment, changed_experiment
from pipeline.errors import TbrmError
from pipeline.store import Store

BRANCHES_KEY = ["branches"]


class BranchConfig(Config):
    """Run config of a branch; `tbrm run EXPERIMENT --name NEW --fork-from G --set …` makes the same."""

    experiment: str = Field(description="The experiment, or the branch, to go on from.")
    generation: int = Field(ge=0, description="Its policy[g] is where the branch begins; generation g is trained anew.")
    overrides: list[str] = Field(
        default=[],
        description="Fields in which the branch differs, as path.to.field=value, e.g. training.objective=grpo.",
    )

    def read(self, store: Store, name: str) -> tuple[ExperimentSource, Experiment]:
        """(what to go on from, the settings of the branch `name`). Raises TbrmError for what no run may set."""
        check_name("experiment", self.experiment)
        origin = read_known(self.experiment, store)
        settings = changed_experiment(origin.experiment, self.overrides)
        check_overrides(origin.experiment, settings)
        return origin, build_experiment(settings.model_dump(mode="json") | {"name": name}, f"branch {name!r:.80}")


@asset(
    key=BRANCHES_KEY,
    group_name="branches",
    partitions_def=DynamicPartitionsDefinition(name="branches"),
    kinds={"yaml"},
    owners=["team:tbrm"],
    description="""Retrain from here: an experiment with generations, scores and lineage of its own, which goes on from
policy[g] of another one beside it. Materialize a new partition, named as the branch; then reload the definitions
(Deployment), and the branch is a group like any other.""",
)
def branches(  # pyright: ignore[reportUnknownParameterType]
    context: AssetExecutionContext, config: BranchConfig, store: StoreLocation
) -> MaterializeResult:  # pyright: ignore[reportMissingTypeArgument]
    """Make the branch that the partition names."""
    opened, name = store.open(), context.partition_key
    try:
        origin, settings = config.read(opened, name)
        fork = branch_experiment(opened, origin, config.generation, settings)
        for generation in sorted({0, fork.generation}):
            report_published(context.instance, opened, settings, generation)
    except TbrmError as error:
        raise Failure(in_the_ui(str(error)), allow_retries=False) from None
    first = partition_name(fork.generation)
    metadata: dict[str, Any] = {
        "from": f"{fork.experiment}:{fork.generation}",
        "policy_id": fork.policy_id,
        "overrides": ", ".join(config.overrides) or "none",
        "next": f"Deployment → Reload definitions, then materialize generation {first} of the group {name}",
    }
    return MaterializeResult(asset_key=BRANCHES_KEY, metadata=metadata)
