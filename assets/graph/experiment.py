"""The asset graph of one experiment, by generation: policy[g] → rollouts → labels → trained_policy → scores.

Its jobs are the preparation of policy[0], one generation, and the evaluation alone, which a schedule may start.
"""

from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetDep,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    IdentityPartitionMapping,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    SpecificPartitionsPartitionMapping,
    StaticPartitionMapping,
    StaticPartitionsDefinition,
    define_asset_job,
    schedule,
)

# The type of what `define_asset_job` returns, for which Dagster has no public name.
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.experiment.pages import fenced
from assets.experiment.source import BrokenSource, ExperimentSource
from assets.experiment.stages import BASE_SCORES, BENCHMARK_SCORES, PINNED_SCORES, Stage, stages_of
from assets.graph.history import EXPERIMENT_TAG, LOGGED_KEY, partition_name, report_published, why_failed
from assets.graph.stage_asset import stage_asset
from assets.graph.step import StoreLocation
from evals.run.plan import plan_entries, setting_of
from evals.run.stage import is_scored, pinned_are_scored
from evals.run.targets import newest_policy, target_of
from pipeline.config import stage_hash
from pipeline.errors import TbrmError

NIGHTLY = "0 3 * * *"
EVALUATES_TAG = "tbrm/evaluates"
"""Run tag of a scheduled evaluation: what is measured, and by which settings."""
_POLICY_DESCRIPTION = """The policy that generation g samples from and starts training at. `policy[0]` is
`base_policy`; `policy[g+1]` is `trained_policy[g]`, published by its training. It has no declared upstream because
Dagster refuses cycles; the metadata `parents` holds the lineage."""


@dataclass(frozen=True)
class ExperimentGraph:
    """What one experiment adds to the definitions."""

    assets: list[AssetsDefinition | AssetSpec]
    jobs: list[UnresolvedAssetJobDefinition]
    schedules: list[ScheduleDefinition]


def base_job(name: str) -> str:
    """Name of the job that prepares policy[0]."""
    return f"{name}_base_policy"


def generation_job(name: str) -> str:
    """Name of the job that runs one generation."""
    return f"{name}_generation"


def experiment_graph(source: ExperimentSource, origin: ExperimentSource | None = None) -> ExperimentGraph:
    """Assets and jobs of an experiment, under the key prefix and group of its name.

    A branch begins with the generation that it was forked at. `origin` is the experiment that it was forked from, where
    that is shown too.
    """
    first = source.first_generation
    generations = StaticPartitionsDefinition([partition_name(g) for g in range(first, source.experiment.generations)])
    policies = _policies(source)
    policy = AssetSpec(
        [source.name, "policy"],
        group_name=source.name,
        partitions_def=policies,
        kinds={"huggingface"},
        owners=["team:tbrm"],
        tags={EXPERIMENT_TAG: source.name},
        description=_POLICY_DESCRIPTION + _came_from(source),
        deps=_shared_policies(source, origin),
    )
    stages = stages_of(source.experiment)
    assets = [stage_asset(source, s, _deps(source, s, stages), generations if s.partitioned else None) for s in stages]
    evaluation = source.experiment.evaluation
    if evaluation and evaluation.pinned:
        assets.append(stage_asset(source, PINNED_SCORES, [], None))
    tags: dict[str, Any] = {EXPERIMENT_TAG: source.name}
    once, looped = (
        AssetSelection.assets(*([source.name, s.name] for s in stages if s.partitioned is partitioned))
        for partitioned in (False, True)
    )
    return ExperimentGraph(
        [policy, *assets],
        [
            define_asset_job(
                base_job(source.name), once, description=f"Prepare policy[0] of {source.name}.", tags=tags
            ),
            define_asset_job(
                generation_job(source.name), looped, description=f"One generation of {source.name}.", tags=tags
            ),
            *([evaluation_job(source)] if evaluation else []),
        ],
        [evaluation_schedule(source)] if evaluation and evaluation.benchmarks else [],
    )


def broken_asset(source: BrokenSource) -> AssetSpec:
    """An experiment file that cannot be used: an asset that shows the error."""
    name = "".join(c if c.isalnum() else "_" for c in source.path.stem)
    return AssetSpec(
        ["broken_experiments", name],
        group_name="broken_experiments",
        kinds={"yaml"},
        description="**This experiment cannot be loaded.** Correct the file, then reload the definitions.\n\n"
        + fenced(source.error),
        metadata={"file": str(source.path), "error": source.error},
    )


def _policies(source: ExperimentSource) -> StaticPartitionsDefinition:
    """One partition more than there are generations, because the last trained policy is published too.

    Of a branch: its policy[0], which is the reference, then those from the generation on that it was forked at.
    """
    numbers = {0, *range(source.first_generation, source.experiment.generations + 1)}
    return StaticPartitionsDefinition([partition_name(g) for g in sorted(numbers)])


def _came_from(source: ExperimentSource) -> str:
    fork = source.fork
    return f"\n\nA branch of `{fork.experiment}` from `policy[{fork.generation}]` on." if fork else ""


def _shared_policies(source: ExperimentSource, origin: ExperimentSource | None) -> list[AssetDep]:
    """The policies of a branch that are those of the experiment that it was forked from."""
    if source.fork is None or origin is None:
        return []
    shared = {partition_name(g) for g in (0, source.fork.generation)} & set(_policies(origin).get_partition_keys())
    return [AssetDep([origin.name, "policy"], partition_mapping=StaticPartitionMapping({key: key for key in shared}))]


def _deps(source: ExperimentSource, stage: Stage, stages: list[Stage]) -> list[AssetDep]:
    partitioned = {"policy": True} | {s.name: s.partitioned for s in stages}
    same = IdentityPartitionMapping()
    deps = [
        AssetDep([source.name, name], partition_mapping=same if stage.partitioned and partitioned[name] else None)
        for name in stage.after
        if name in partitioned
    ]
    names = [logged.name for logged in source.experiment.replay.logged]
    if stage.reads_logged and names:
        deps.append(AssetDep(AssetKey(LOGGED_KEY), partition_mapping=SpecificPartitionsPartitionMapping(names)))
    return deps


def evaluation_job(source: ExperimentSource) -> UnresolvedAssetJobDefinition:
    """`<experiment>_evaluation`: the scores alone, in a run of their own."""
    pinned = source.experiment.evaluation and source.experiment.evaluation.pinned
    stages = [BASE_SCORES, BENCHMARK_SCORES, *([PINNED_SCORES] if pinned else [])]
    return define_asset_job(
        f"{source.name}_evaluation",
        AssetSelection.assets(*([source.name, stage.name] for stage in stages)),
        description=f"Benchmark scores of {source.name}: of one policy, or of the pinned ones.",
        tags={EXPERIMENT_TAG: source.name},
    )


def evaluation_schedule(source: ExperimentSource) -> ScheduleDefinition:
    """`<experiment>_evaluation_schedule`, by the cron expression `evaluation.schedule` (UTC).

    Where the experiment has none it is nightly, and off until somebody switches it on.
    """
    evaluation = source.experiment.evaluation
    assert evaluation is not None  # asked for only where the experiment has one
    status = DefaultScheduleStatus.RUNNING if evaluation.schedule else DefaultScheduleStatus.STOPPED

    @schedule(
        name=f"{source.name}_evaluation_schedule",
        job_name=f"{source.name}_evaluation",
        cron_schedule=evaluation.schedule or NIGHTLY,
        default_status=status,
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
        wanted: list[tuple[Stage, str, str | None]] = []
        if not is_scored(setting, opened, target, plan_entries(setting)):
            stage = BENCHMARK_SCORES if generation > 0 else BASE_SCORES
            wanted.append((stage, target.policy.policy_id, partition_name(generation - 1) if generation > 0 else None))
        if not pinned_are_scored(source.experiment, opened):
            wanted.append((PINNED_SCORES, "pinned", None))
        left: list[str] = []
        for stage, policy, partition in wanted:
            asked = _request(source, stage, policy, context, partition)
            why = _asked_before(context.instance, asked)
            if why:
                left.append(f"{stage.name} {why}")
            else:
                requests.append(asked)
        done = f"policy[{generation}] and the pinned policies are scored already"
        return requests or SkipReason("; ".join(left) or done)

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
        tags={EVALUATES_TAG: stage_hash(source.experiment, stage.name, policy)},
    )


def _asked_before(instance: DagsterInstance, asked: RunRequest) -> str:
    """Why the same evaluation is not asked for again, in words; empty where none is under way and none has failed.

    One that has failed would fail again, as long as neither the policy nor the settings change.
    """
    newest = next(iter(instance.get_runs(RunsFilter(tags={EVALUATES_TAG: asked.tags[EVALUATES_TAG]}), limit=1)), None)
    if newest is None or newest.status is DagsterRunStatus.SUCCESS:
        return ""
    if not newest.is_finished:
        return f"is under way: run {newest.run_id}"
    why = "was terminated" if newest.status is DagsterRunStatus.CANCELED else why_failed(instance, newest.run_id)
    return f"is not tried again, run {newest.run_id}: {why}. Fix the cause, then re-execute that run from failure"
