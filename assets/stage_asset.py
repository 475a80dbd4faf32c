"""One asset from one stage: run its command in a process tree of its own, check what it left, report it."""

from collections.abc import Sequence
from typing import Any

from dagster import (
    AssetCheckSpec,
    AssetDep,
    AssetExecutionContext,
    AssetsDefinition,
    Config,
    Failure,
    MaterializeResult,
    PartitionsDefinition,
    ResourceParam,
    asset,
)
from pydantic import Field

from assets.checks import BLOCKING, CHECKS
from assets.cluster_launcher import launcher_of
from assets.launcher import Launcher
from assets.metadata import describe, table_metadata
from assets.publish import ensure_published, publish_next
from assets.resources import StoreLocation
from assets.run_config import check_overrides
from assets.sources import ExperimentSource, read_experiment
from assets.stage_run import run_command
from assets.stages import BASE_POLICY, TRAINED_POLICY, Stage, is_finished
from pipeline.config import Experiment
from pipeline.errors import TbrmError
from pipeline.store import Store

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
    experiment = _experiment_now(source, config)
    if "policy" in stage.after:
        ensure_published(context.instance, store, experiment, generation)
    arguments = [stage.command, *source.arguments(config.overrides), *location.arguments()]
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
        ensure_published(context.instance, store, experiment, 0)
    try:
        checks = [
            CHECKS[stage.name, name](store, experiment, generation).to_result(name, [source.name, stage.name])
            for name in stage.checks
        ]
        described = table_metadata(stage, store, experiment, generation)
    except TbrmError as error:
        raise Failure(f"the result cannot be read back: {error}", allow_retries=False) from error
    if stage is TRAINED_POLICY and not any(check.passed is False and check.check_name in BLOCKING for check in checks):
        _publish(context, store, experiment, generation)
    return MaterializeResult(
        asset_key=[source.name, stage.name],
        metadata={**finished.metadata(), **described},
        check_results=checks,
    )


def _publish(context: AssetExecutionContext, store: Store, experiment: Experiment, generation: int) -> None:
    """policy[g+1], where that generation holds no other policy yet: trained again, it is kept but not published."""
    try:
        publish_next(context.instance, store, experiment, generation)
    except TbrmError as error:
        context.log.warning(f"policy[{generation + 1}] is not published: {error}")


def _experiment_now(source: ExperimentSource, config: StageConfig) -> Experiment:
    """The experiment as its file and this run's overrides say it now: a change needs no reload of the definitions."""
    try:
        run = read_experiment(str(source.path), (*source.overrides, *config.overrides)).experiment
        check_overrides(read_experiment(str(source.path), source.overrides).experiment, run)
        return run
    except TbrmError as error:
        raise Failure(str(error), allow_retries=False) from error
