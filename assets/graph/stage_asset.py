"""One asset from one stage: run its command in a process tree of its own, check what it left, report it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from dagster import (
    AssetCheckSpec,
    AssetDep,
    AssetExecutionContext,
    AssetsDefinition,
    Config,
    Failure,
    MaterializeResult,
    MetadataValue,
    PartitionsDefinition,
    ResourceParam,
    asset,
)
from pydantic import Field

from assets.experiment.checks import BLOCKING, CHECKS
from assets.experiment.pages import describe, table_metadata
from assets.experiment.run_config import check_overrides
from assets.experiment.source import ExperimentSource, read_experiment
from assets.experiment.stages import BASE_POLICY, TRAINED_POLICY, Stage, is_finished
from assets.graph.history import report_published
from assets.graph.resources import StoreLocation
from assets.graph.step import run_command
from assets.processes.cluster import launcher_of
from assets.processes.launcher import Launcher
from pipeline.config import changed_experiment
from pipeline.errors import TbrmError
from pipeline.store import Store, open_store

_OF_NO_GENERATION = ("base-policy", "logged-labels")


class StageConfig(Config):
    """Run config of every stage; the defaults are the experiment's YAML as it is now."""

    overrides: list[str] = Field(
        default=[],
        description="Fields set for this run only, as path.to.field=value, e.g. training.beta=0.01. What names code, "
        "hosts or places is set in the YAML alone.",
    )
    replace: bool = Field(
        default=False,
        description="Write a committed partition anew (with other settings); the old one is kept beside it.",
    )


def stage_asset(
    source: ExperimentSource, stage: Stage, deps: Sequence[AssetDep], partitions: PartitionsDefinition[str] | None
) -> AssetsDefinition:
    """The asset `<experiment>/<stage>`."""

    @asset(
        key=[source.name, stage.name],
        group_name=source.name,
        deps=deps,
        partitions_def=partitions,
        kinds=set(stage.kinds),
        owners=["team:tbrm"],
        tags={"tbrm/experiment": source.name, "tbrm/stage": stage.name},
        description=describe(stage, source.experiment),
        metadata=table_metadata(stage),
        check_specs=[
            AssetCheckSpec(
                name,
                asset=[source.name, stage.name],
                description=CHECKS[stage.name, name].__doc__,
                blocking=name in BLOCKING,
            )
            for name in stage.checks
        ],
        pool=stage.pool,
        code_version="1",
    )
    def compute(  # pyright: ignore[reportUnknownParameterType]
        context: AssetExecutionContext, config: StageConfig, launcher: ResourceParam[Launcher], store: StoreLocation
    ) -> MaterializeResult:  # pyright: ignore[reportMissingTypeArgument]
        # Dagster reads the annotation and knows only the bare class.
        return run_stage(context, source, stage, config, launcher, store)

    return compute


def run_stage(
    context: AssetExecutionContext,
    source: ExperimentSource,
    stage: Stage,
    config: StageConfig,
    launcher: Launcher,
    location: StoreLocation,
) -> MaterializeResult[Any]:
    """Run one stage of one generation to its end. Raises Failure with the stage's own message when it fails."""
    generation = int(context.partition_key) if stage.partitioned else 0
    store = location.open()
    run = _source_of_stage(context, source, config, store)
    experiment = run.experiment
    if "policy" in stage.after:
        report_published(context.instance, store, experiment, generation)
    arguments = [stage.command, *run.arguments(), *location.arguments()]
    if stage.options is not None:
        arguments += stage.options
    elif stage.command not in _OF_NO_GENERATION:
        arguments += ["--generation", str(generation + stage.offset)]
    if config.replace:
        arguments.append("--replace")
    runs_it = launcher_of(experiment, stage.name, launcher)
    workers = experiment.training.processes if stage is TRAINED_POLICY else 1
    trains = stage is TRAINED_POLICY or (stage is BASE_POLICY and experiment.policy.warm_start is not None)
    grace_s = experiment.training.stop_grace_s if trains else 0.0
    finished = run_command(context, arguments, runs_it, workers, grace_s)
    if not is_finished(stage, store, experiment, generation):
        raise finished.refused("the stage ended normally, but its result is not committed in the store")
    if stage is BASE_POLICY:
        report_published(context.instance, store, experiment, 0)
    try:
        checks = [
            CHECKS[stage.name, name](store, experiment, generation).to_result(name, [source.name, stage.name])
            for name in stage.checks
        ]
        described = table_metadata(stage, store, experiment, generation)
    except TbrmError as error:
        raise Failure(f"the result cannot be read back: {error}", allow_retries=False) from error
    if stage is TRAINED_POLICY:
        report_published(context.instance, store, experiment, generation + 1)
    return MaterializeResult(
        asset_key=[source.name, stage.name],
        metadata={**finished.metadata(), **described, "configuration": MetadataValue.path(run.path)},
        check_results=checks,
    )


def _source_of_stage(
    context: AssetExecutionContext, source: ExperimentSource, config: StageConfig, store: Store
) -> ExperimentSource:
    """The experiment as its file said it when this run began, with this stage's overrides.

    A change of the file needs no reload of the definitions, and none while a run is under way reaches its stages.
    """
    try:
        whole = source if source.kept else _kept_for_run(context.run.run_id, source.path, source.overrides, store.root)
        if not config.overrides:
            return whole
        run = changed_experiment(whole.experiment, config.overrides)
        check_overrides(whole.experiment, run)
        return ExperimentSource(whole.path, run).keep(store)
    except TbrmError as error:
        raise Failure(str(error), allow_retries=False) from error


@lru_cache(maxsize=16)
def _kept_for_run(run_id: str, path: str, overrides: tuple[str, ...], root: str) -> ExperimentSource:
    """All steps of a run are made in one process, which asks the file once."""
    return read_experiment(path, overrides).keep(open_store(root))
