"""Re-evaluation by the clock: the newest published policy and the pinned ones, as far as they are not scored yet."""

from dagster import (
    AssetKey,
    AssetSelection,
    DefaultScheduleStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    define_asset_job,
    schedule,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.experiment.source import ExperimentSource
from assets.experiment.stages import BASE_SCORES, BENCHMARK_SCORES, PINNED_SCORES, Stage
from assets.graph.history import partition_name, report_published
from assets.graph.resources import StoreLocation
from evals.run.pinned import pinned_are_scored
from evals.run.plan import plan_entries, setting_of
from evals.run.stage import is_scored
from evals.run.targets import newest_policy, target_of
from pipeline.errors import TbrmError


def evaluation_job(source: ExperimentSource) -> UnresolvedAssetJobDefinition:
    """`<experiment>_evaluation`: the scores alone, in a run of their own."""
    pinned = source.experiment.evaluation and source.experiment.evaluation.pinned
    stages = [BASE_SCORES, BENCHMARK_SCORES, *([PINNED_SCORES] if pinned else [])]
    return define_asset_job(
        f"{source.name}_evaluation",
        AssetSelection.assets(*([source.name, stage.name] for stage in stages)),
        description=f"Benchmark scores of {source.name}: of one policy, or of the pinned ones.",
        tags={"tbrm/experiment": source.name},
    )


def evaluation_schedule(source: ExperimentSource) -> ScheduleDefinition:
    """`<experiment>_evaluation_schedule`, by the cron expression `evaluation.schedule` (UTC)."""
    evaluation = source.experiment.evaluation
    assert evaluation is not None  # asked for only where the experiment has one
    assert evaluation.schedule is not None

    @schedule(
        name=f"{source.name}_evaluation_schedule",
        job_name=f"{source.name}_evaluation",
        cron_schedule=evaluation.schedule,
        default_status=DefaultScheduleStatus.RUNNING,
        description=f"Evaluates the newest published policy of {source.name} and its pinned policies; what is scored "
        "with the same protocol and verifier is skipped.",
    )
    def evaluate(context: ScheduleEvaluationContext, store: StoreLocation) -> list[RunRequest] | SkipReason:
        opened = store.open()
        requests: list[RunRequest] = []
        try:
            generation = newest_policy(opened, source.name)
        except TbrmError as error:
            return SkipReason(str(error))
        report_published(context.instance, opened, source.experiment, generation)
        setting = setting_of(source.experiment)
        target = target_of(opened, f"{source.name}:{generation}")
        if not is_scored(setting, opened, target, plan_entries(setting)):
            stage = BENCHMARK_SCORES if generation > 0 else BASE_SCORES
            partition = partition_name(generation - 1) if generation > 0 else None
            requests.append(_request(source, stage, target.policy.policy_id, context, partition))
        if not pinned_are_scored(source.experiment, opened):
            requests.append(_request(source, PINNED_SCORES, "pinned", context, None))
        return requests or SkipReason(f"policy[{generation}] and the pinned policies are scored already")

    return evaluate


def _request(
    source: ExperimentSource, stage: Stage, policy: str, context: ScheduleEvaluationContext, partition: str | None
) -> RunRequest:
    """A run of one score asset. A score by another protocol is written anew; the old one is kept beside it."""
    return RunRequest(
        run_key=f"{source.name}-{stage.name}-{policy}-{context.scheduled_execution_time.isoformat()}",
        partition_key=partition,
        asset_selection=[AssetKey([source.name, stage.name])],
        run_config={"ops": {f"{source.name}__{stage.name}": {"config": {"replace": True}}}},
    )
