"""One asset from one stage: run its command in a process tree of its own, check what it left, report it."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
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
    PipesTempFileContextInjector,
    PipesTempFileMessageReader,
    ResourceParam,
    RetryRequested,
    asset,
    open_pipes_session,
)
from pydantic import Field

from assets.checks import BLOCKING, CHECKS
from assets.launcher import Ended, Launcher
from assets.metadata import describe, table_metadata
from assets.publish import ensure_published
from assets.resources import StoreLocation, stage_log
from assets.sources import ExperimentSource
from assets.stage_process import PROGRESS_EVERY_S
from assets.stages import BASE_POLICY, TRAINED_POLICY, Stage, is_finished
from pipeline.errors import TbrmError

# Only a process that was killed (memory, a lost machine) is worth starting again; a wrong input stays wrong. This is no
# RetryPolicy of the asset because Dagster would then start a stage again that a user has just terminated.
_RETRIES = 1
_OF_NO_GENERATION = ("base-policy", "logged-labels")
_RETRY_AFTER_S = 5.0
PROGRESS_TAG = "tbrm/progress_every_s"
"""Run tag: seconds between progress lines, for who follows a run closely."""


class StageConfig(Config):
    """Run config of every stage; the defaults are the experiment's YAML as it is now."""

    overrides: list[str] = Field(
        default=[], description="Fields set for this run only, as path.to.field=value, e.g. training.beta=0.01."
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
    if "policy" in stage.after:
        ensure_published(context.instance, store, source.experiment, generation)
    arguments = [stage.command, *source.arguments(config.overrides), *location.arguments()]
    if stage.options is not None:
        arguments += stage.options
    elif stage.command not in _OF_NO_GENERATION:
        arguments += ["--generation", str(generation + stage.offset)]
    if config.replace:
        arguments.append("--replace")
    started = time.monotonic()
    messages, ended = _run_process(context, arguments, launcher, _workers(source, stage))
    report = _report_of(messages)
    if ended.killed and context.retry_number < _RETRIES:
        raise RetryRequested(_RETRIES, _RETRY_AFTER_S) from _failure(arguments, messages, ended)
    if ended.code or report is None:
        raise _failure(arguments, messages, ended)
    if not is_finished(stage, store, source.experiment, generation):
        raise _failure(
            arguments, [{"error": "the stage ended normally, but its result is not committed in the store"}], ended
        )
    if stage is BASE_POLICY:
        ensure_published(context.instance, store, source.experiment, 0)
    metrics: Mapping[str, Any] = report["metrics"]
    overhead = 0.0 if report["skipped"] else time.monotonic() - started - report["seconds"]
    try:
        checks = [
            CHECKS[stage.name, name](store, source.experiment, generation).to_result(name, [source.name, stage.name])
            for name in stage.checks
        ]
        described = table_metadata(stage, store, source.experiment, generation)
    except TbrmError as error:
        raise Failure(f"the result cannot be read back: {error}", allow_retries=False) from error
    return MaterializeResult(
        asset_key=[source.name, stage.name],
        metadata={
            **metrics,
            "rows": report["rows"],
            "seconds": report["seconds"],
            "overhead_seconds": round(overhead, 3),
            "skipped": bool(report["skipped"]),
            "log": MetadataValue.path(str(ended.log)),
            "command": MetadataValue.md(f"`tbrm {' '.join(arguments)}`"),
            **described,
        },
        check_results=checks,
    )


def _run_process(
    context: AssetExecutionContext, arguments: Sequence[str], launcher: Launcher, workers: int
) -> tuple[Sequence[Mapping[str, Any]], Ended]:
    context.log.info(f"tbrm {' '.join(arguments)}")
    with open_pipes_session(
        context=context,
        context_injector=PipesTempFileContextInjector(),
        message_reader=PipesTempFileMessageReader(),
        extras={PROGRESS_EVERY_S: float(context.run.tags.get(PROGRESS_TAG, "5"))},
    ) as session:
        ended = launcher.run(
            [sys.executable, "-m", "assets.stage_process", *arguments],
            session.get_bootstrap_env_vars(),
            stage_log(context),
            workers,
        )
    return session.get_custom_messages(), ended


def _workers(source: ExperimentSource, stage: Stage) -> int:
    return source.experiment.training.processes if stage is TRAINED_POLICY else 1


def _report_of(messages: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((m["report"] for m in messages if "report" in m), None)


def _failure(arguments: Sequence[str], messages: Iterable[Mapping[str, Any]], ended: Ended) -> Failure:
    """What the run page shows: the stage's own error, else its last line; the last lines and the log beside it."""
    last = ended.tail[-1] if ended.tail else "no output"
    silent = "it reported nothing" if ended.code == 0 else last
    reason = next((str(m["error"]) for m in messages if "error" in m), silent)
    how = f"ended by signal {ended.code - 128}" if ended.killed else f"exit status {ended.code}"
    return Failure(
        f"tbrm {arguments[0]} ({how}): {reason}",
        metadata={
            "last_lines": MetadataValue.md("```\n" + "\n".join(ended.tail) + "\n```"),
            "log": MetadataValue.path(str(ended.log)),
            "command": MetadataValue.md(f"`tbrm {' '.join(arguments)}`"),
        },
        allow_retries=False,
    )
