"""One asset from one stage: its command runs in a process tree of its own, then the result is checked and shown."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
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
    TableColumn,
    TableColumnConstraints,
    TableSchema,
    asset,
)
from pydantic import Field

from assets.experiment.checks import BLOCKING, Verdict
from assets.experiment.run_config import check_overrides
from assets.experiment.source import ExperimentSource, read_experiment
from assets.experiment.stages import Stage
from assets.graph.history import EXPERIMENT_TAG, report_published
from assets.graph.step import Finished, StoreLocation, run_command
from assets.processes.cluster import launcher_of
from assets.processes.launcher import Launcher
from pipeline.config import Experiment, changed_experiment
from pipeline.errors import TbrmError
from pipeline.store import SCHEMAS, Store, open_store
from pipeline.store.schema import MEANINGS


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
        tags={EXPERIMENT_TAG: source.name, "tbrm/stage": stage.name},
        description=stage.describe(source.experiment),
        metadata={"dagster/column_schema": column_schema(stage.table)} if stage.table else {},
        check_specs=[
            AssetCheckSpec(
                name,
                asset=[source.name, stage.name],
                description=check.__doc__,
                blocking=name in BLOCKING,
            )
            for name, check in stage.checks.items()
        ],
        pool=stage.pool,
        code_version="1",
    )
    def compute(  # pyright: ignore[reportUnknownParameterType]
        context: AssetExecutionContext, config: StageConfig, launcher: ResourceParam[Launcher], store: StoreLocation
    ) -> MaterializeResult:  # pyright: ignore[reportMissingTypeArgument]
        # Dagster reads the annotation of the result, and knows only the class without its parameter.
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
    run = _source_of_run(context, source, config, store)
    experiment = run.experiment
    if "policy" in stage.after:
        report_published(context.instance, store, experiment, generation)
    arguments = [stage.command, *run.arguments(), *location.arguments(), *stage.arguments(generation)]
    if config.replace:
        arguments.append("--replace")
    training, trains = experiment.training, stage.trains(experiment)
    finished = run_command(
        context,
        arguments,
        launcher_of(experiment, stage.name, trains, launcher),
        workers=training.processes if trains else 1,
        grace_s=training.stop_grace_s if trains else 0.0,
    )
    if not stage.is_finished(store, experiment, generation):
        raise finished.refused("the stage ended normally, but its result is not committed in the store")
    try:
        checks = [
            check_result([source.name, stage.name], name, check(store, experiment, generation))
            for name, check in stage.checks.items()
        ]
        described = result_metadata(stage, finished, store, experiment, generation)
    except TbrmError as error:
        raise Failure(f"the result cannot be read back: {error}", allow_retries=False) from error
    if stage.publishes is not None:
        report_published(context.instance, store, experiment, generation + stage.publishes)
    return MaterializeResult(
        asset_key=[source.name, stage.name],
        metadata={**described, "configuration": MetadataValue.path(run.path)},
        check_results=checks,
    )


def check_result(key: list[str], name: str, verdict: Verdict) -> AssetCheckResult:
    """A verdict for Dagster: a failed check is an error where it is blocking, else a warning."""
    return AssetCheckResult(
        passed=verdict.passed,
        asset_key=key,
        check_name=name,
        severity=AssetCheckSeverity.ERROR if name in BLOCKING else AssetCheckSeverity.WARN,
        description=verdict.description,
        metadata=dict(verdict.numbers),
    )


def column_schema(table: str) -> TableSchema:
    """Columns of a table of the store, as Dagster's pages show them."""
    return TableSchema(
        [
            TableColumn(f.name, str(f.type), MEANINGS.get(f.name), TableColumnConstraints(nullable=f.nullable))
            for f in SCHEMAS[table]
        ]
    )


def result_metadata(
    stage: Stage, finished: Finished, store: Store, experiment: Experiment, generation: int
) -> dict[str, Any]:
    """Numbers and page of a stage's result, and of a table also its columns, rows, place and hash."""
    of = generation + stage.offset
    headlines = stage.headlines(finished.report["metrics"], store, experiment.name, of)
    page = stage.page(store, experiment.name, of)
    if stage.table is None:
        return finished.metadata(headlines, page)
    partition = store.partition(experiment.name, stage.table, of)
    manifest = partition.manifest()
    return {
        **finished.metadata(headlines, page, {"bytes": manifest.bytes, "shards": len(manifest.shards)}),
        "dagster/column_schema": column_schema(stage.table),
        "dagster/row_count": manifest.rows,
        "dagster/uri": partition.path,
        "manifest_hash": manifest.hash,
    }


def _source_of_run(
    context: AssetExecutionContext, source: ExperimentSource, config: StageConfig, store: Store
) -> ExperimentSource:
    """The experiment as its file said it when this run began, with the overrides of this stage.

    So a change of the file needs no reload of the definitions, and does not reach the stages of a run under way.
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
    """Read once a run: all steps of a run are made in one process."""
    return read_experiment(path, overrides).keep(open_store(root))
