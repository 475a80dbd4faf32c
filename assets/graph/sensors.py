"""What drives the loop in the UI: a trained policy asks for the next generation."""

from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunStatusSensorContext,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    run_status_sensor,
    sensor,
)

from assets.experiment.source import ExperimentSource
from assets.experiment.stages import TRAINED_POLICY, due_stages
from assets.graph.experiment import generation_job
from assets.graph.history import (
    PARTITION_TAG,
    UNDER_WAY,
    failed_checks,
    keep_checks,
    partition_name,
    register_logged,
    report_published,
    runs_of,
    why_failed,
)
from assets.graph.step import StoreLocation
from pipeline.errors import TbrmError
from pipeline.store import Store

HEADLESS_TAG = "tbrm/headless"
"""Run tag of `tbrm run`, which starts its next generation itself."""
_EVENTS_A_TICK = 50


def publish_sensor(source: ExperimentSource) -> SensorDefinition:
    """`<experiment>_publish`: runs generation g+1 when trained_policy[g] is there and its checks have passed."""

    @sensor(
        name=f"{source.name}_publish",
        job_name=generation_job(source.name),
        minimum_interval_seconds=5,
        default_status=DefaultSensorStatus.STOPPED,
        description=f"Runs the next generation of {source.name} when a policy is trained, until all "
        f"{source.experiment.generations} are done. Switch it off to pause the loop.",
    )
    def publish(context: SensorEvaluationContext, store: StoreLocation) -> SensorResult | SkipReason:
        trained = AssetRecordsFilter(
            AssetKey([source.name, TRAINED_POLICY.name]),
            after_storage_id=int(context.cursor) if context.cursor else None,
        )
        records = context.instance.fetch_materializations(trained, limit=_EVENTS_A_TICK, ascending=True).records
        # A run that is still going may yet fail a check: its event is looked at again at the next tick.
        finished = []
        for record in records:
            run = context.instance.get_run_by_id(record.run_id)
            if run is not None and not run.is_finished:
                break
            finished.append((record, run))
        if not finished:
            return SkipReason(_why_nothing(context.instance, source))
        requests: dict[int, RunRequest] = {}
        for record, run in finished:
            generation = int(record.partition_key or 0)
            try:
                known = report_published(context.instance, store.open(), source.experiment, generation + 1)
            except TbrmError as error:
                context.log.error(str(error))
                continue
            failed = failed_checks(context.instance, source.experiment, generation)
            if failed or not known:
                why = f"{', '.join(failed)} failed on trained_policy" if failed else "training changed nothing"
                context.log.error(f"the loop ends with generation {generation}: {why}")
                continue
            following = generation + 1
            if not (run and HEADLESS_TAG in run.tags) and is_wanted(context.instance, store.open(), source, following):
                requests[following] = next_generation(source, following, str(record.storage_id))
        return SensorResult(run_requests=list(requests.values()), cursor=str(finished[-1][0].storage_id))

    return publish


def is_wanted(instance: DagsterInstance, store: Store, source: ExperimentSource, generation: int) -> bool:
    """Whether a generation is still to be run: within the experiment, not trained yet, and not under way."""
    if generation >= source.experiment.generations or TRAINED_POLICY.is_finished(store, source.experiment, generation):
        return False
    return not runs_of(instance, source.name, partition_name(generation), UNDER_WAY)


def _why_nothing(instance: DagsterInstance, source: ExperimentSource) -> str:
    """What the loop waits for, as its newest run tells."""
    newest = next(iter(runs_of(instance, source.name)), None)
    if newest is None:
        first = partition_name(source.first_generation)
        return f"nothing was run yet: materialize generation {first} to start the loop"
    generation = newest.tags.get(PARTITION_TAG)
    what = f"generation {generation}" if generation else "preparation of the base policy"
    if newest.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
        failed = newest.status is DagsterRunStatus.FAILURE
        reason = why_failed(instance, newest.run_id) if failed else "it was terminated"
        return f"the loop stopped at {what}: {reason}. Fix the cause, then re-execute run {newest.run_id} from failure"
    return "nothing was trained since the last tick" if newest.is_finished else f"{what} is under way"


def next_generation(source: ExperimentSource, generation: int, cause: str) -> RunRequest:
    """The run of one generation; `cause` keeps the same event from asking twice."""
    return RunRequest(
        run_key=f"{source.name}-{partition_name(generation)}-{cause}",
        partition_key=partition_name(generation),
        asset_selection=[AssetKey([source.name, stage.name]) for stage in due_stages(source.experiment, generation)],
    )


def canceled_sensor() -> SensorDefinition:
    """Keeps the results of checks that a canceled run has left unmade."""

    @run_status_sensor(
        run_status=DagsterRunStatus.CANCELED,
        name="checks_of_canceled_runs",
        minimum_interval_seconds=30,
        default_status=DefaultSensorStatus.RUNNING,
        description="After a run was canceled, its checks have the results again that they had before.",
    )
    def canceled(context: RunStatusSensorContext) -> SkipReason:
        told = keep_checks(context.instance, context.dagster_run)
        return SkipReason(f"as before: {', '.join(told)}" if told else "the run has left no check unmade")

    return canceled


def logged_sensor() -> SensorDefinition:
    """Shows data sets that were imported by the `tbrm import` command as partitions of `logged_trajectories`."""

    @sensor(
        name="logged_trajectories_found",
        minimum_interval_seconds=30,
        default_status=DefaultSensorStatus.RUNNING,
        description="Adds a partition of logged_trajectories for every logged data set in the store.",
    )
    def found(context: SensorEvaluationContext, store: StoreLocation) -> SkipReason:
        new = register_logged(context.instance, store.open())
        return SkipReason(f"new: {', '.join(new)}" if new else "no new data set")

    return found
