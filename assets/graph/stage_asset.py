"""One asset from one stage: its command runs in a process tree of its own, then the result is checked and shown."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetDep,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    DataVersion,
    Failure,
    MaterializeResult,
    MetadataValue,
    PartitionsDefinition,
    PreviewWarning,
    ResourceParam,
    TableColumn,
    TableColumnConstraints,
    TableSchema,
    multi_asset,
)

from assets.experiment.checks import BLOCKING, Verdict
from assets.experiment.run_config import check_overrides
from assets.experiment.source import ExperimentSource, read_experiment
from assets.experiment.stages import Stage
from assets.graph.forms import StageConfig, form_of, overrides_of
from assets.graph.history import EXPERIMENT_TAG, end_backfill, report_published
from assets.graph.step import Finished, StoreLocation, in_the_ui, run_command
from assets.processes.cluster import launcher_of
from assets.processes.launcher import Launcher
from pipeline.config import Experiment, changed_experiment
from pipeline.errors import TbrmError
from pipeline.store import SCHEMAS, Store, open_store
from pipeline.store.schema import MEANINGS


def stage_asset(
    source: ExperimentSource, stage: Stage, deps: Sequence[AssetDep], partitions: PartitionsDefinition[str] | None
) -> AssetsDefinition:
    """The asset `<experiment>/<stage>`."""

    key = AssetKey([source.name, stage.name])

    def compute(  # pyright: ignore[reportUnknownParameterType]
        context: AssetExecutionContext, config: StageConfig, launcher: ResourceParam[Launcher], store: StoreLocation
    ):  # Dagster would read the annotation of the result, and knows no iterator of both kinds
        if key in context.selected_asset_keys:
            try:
                made = run_stage(context, source, stage, config, launcher, store)
            except Failure:
                if stage.partitioned and stage.table != "scores":
                    end_backfill(context.instance, context.run, source.name)
                raise
            yield made
        else:
            yield from check_again(context, source, stage, store)

    compute.__annotations__["config"] = form_of(source.experiment, stage)
    spec = AssetSpec(
        key,
        group_name=source.name,
        deps=deps,
        partitions_def=partitions,
        kinds=set(stage.kinds),
        owners=["team:tbrm"],
        tags={EXPERIMENT_TAG: source.name, "tbrm/stage": stage.name},
        description=stage.describe(source.experiment),
        metadata={"dagster/column_schema": column_schema(stage.table)} if stage.table else {},
        code_version=stage.settings_hash(source.experiment),
    )
    # A multi-asset of one asset: its checks may be left out where they do not apply, and be run again by themselves.
    as_asset = multi_asset(
        name=f"{source.name}__{stage.name}",
        specs=[spec],
        check_specs=_check_specs(key, stage, partitions),
        can_subset=True,
        pool=stage.pool,
    )
    return as_asset(compute)


def _check_specs(key: AssetKey, stage: Stage, partitions: PartitionsDefinition[str] | None) -> list[AssetCheckSpec]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)  # partitions of checks are new in Dagster
        return [
            AssetCheckSpec(
                name,
                asset=key,
                description=check.__doc__,
                blocking=name in BLOCKING,
                partitions_def=partitions,
            )
            for name, check in stage.checks.items()
        ]


def check_again(
    context: AssetExecutionContext, source: ExperimentSource, stage: Stage, location: StoreLocation
) -> Iterator[AssetCheckResult]:
    """Results of the checks for what the store has. Raises Failure where it has nothing, or nothing readable."""
    generation = int(context.partition_key) if stage.partitioned else 0
    chosen = {key.name for key in context.selected_asset_check_keys}
    try:
        found = verdicts(stage, location.open(), source.experiment, generation)
        yield from check_results([source.name, stage.name], {name: v for name, v in found.items() if name in chosen})
    except TbrmError as error:
        raise Failure(f"there is nothing to check: {error}", allow_retries=False) from error


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
    run = _source_of_run(context, source, overrides_of(source.experiment, stage, config), store)
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
        found = verdicts(stage, store, experiment, generation)
        version = stage.data_version(store, experiment.name, generation)
        described = result_metadata(stage, finished, store, experiment, generation)
    except TbrmError as error:
        raise Failure(f"the result cannot be read back: {error}", allow_retries=False) from error
    if stage.publishes is not None:
        report_published(context.instance, store, experiment, generation + stage.publishes)
    return MaterializeResult(
        asset_key=[source.name, stage.name],
        metadata={**described, "configuration": MetadataValue.path(run.path), **_left_out(found)},
        check_results=list(check_results([source.name, stage.name], found)),
        data_version=DataVersion(version) if version else None,
    )


def verdicts(stage: Stage, store: Store, experiment: Experiment, generation: int) -> dict[str, Verdict]:
    """What each check of the stage says of its result for a generation of the asset. Raises TbrmError."""
    return {name: check(store, experiment, generation) for name, check in stage.checks.items()}


def _left_out(found: Mapping[str, Verdict]) -> dict[str, str]:
    """Which checks have no result, and why."""
    return {f"{name} does not apply": verdict.description for name, verdict in found.items() if verdict.passed is None}


def check_results(key: list[str], found: Mapping[str, Verdict]) -> Iterator[AssetCheckResult]:
    """The verdicts for Dagster. A check that does not apply has no result: Dagster shows it as skipped."""
    return (check_result(key, name, verdict) for name, verdict in found.items() if verdict.passed is not None)


def check_result(key: list[str], name: str, verdict: Verdict) -> AssetCheckResult:
    """A verdict for Dagster: a failed check is an error where it is blocking, else a warning."""
    return AssetCheckResult(
        passed=bool(verdict.passed),
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
    context: AssetExecutionContext, source: ExperimentSource, overrides: Sequence[str], store: Store
) -> ExperimentSource:
    """The experiment as its file said it when this run began, with the overrides of this stage.

    So a change of the file needs no reload of the definitions, and does not reach the stages of a run under way.
    """
    try:
        whole = source if source.kept else _kept_for_run(context.run.run_id, source.path, source.overrides, store.root)
        if not overrides:
            return whole
        run = changed_experiment(whole.experiment, overrides)
        check_overrides(whole.experiment, run)
        return ExperimentSource(whole.path, run).keep(store)
    except TbrmError as error:
        raise Failure(in_the_ui(str(error)), allow_retries=False) from None


@lru_cache(maxsize=16)
def _kept_for_run(run_id: str, path: str, overrides: tuple[str, ...], root: str) -> ExperimentSource:
    """Read once a run: all steps of a run are made in one process."""
    return read_experiment(path, overrides).keep(open_store(root))
