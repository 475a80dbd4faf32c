"""The evaluation schedule and the regression check, driven by Dagster's own scheduler with its clock moved forward."""

import datetime
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from dagster import AssetCheckKey, AssetKey, DagsterInstance, DagsterRunStatus, RunRequest, build_schedule_context
from dagster._core.test_utils import (
    create_run_for_test,
    create_test_daemon_workspace_context,
    freeze_time,
    instance_for_test,
    poll_for_finished_run,
)
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._scheduler.scheduler import launch_scheduled_runs

from assets.definitions import build_definitions
from assets.experiment.checks import no_regression
from assets.experiment.source import read_experiment
from assets.graph.step import StoreLocation
from evals.run.stage import run_evaluate
from evals.statistics.scores import read_scores
from pipeline.store import Store, open_store
from tests.support.evals_store import EXPERIMENT, publish

CODE = """
from assets.definitions import build_definitions
from assets.graph.step import StoreLocation
from assets.experiment.source import read_experiment

defs = build_definitions([read_experiment({path!r})], store=StoreLocation(root={root!r}))
"""
NIGHT = datetime.datetime(2026, 1, 5, 2, 59, 30, tzinfo=datetime.UTC)


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    """The tiny experiment, re-evaluated at three in the morning."""
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT + '  schedule: "0 3 * * *"\n', encoding="utf-8")
    return path


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    at_once = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}  # no queue daemon runs here
    with instance_for_test(overrides={"run_coordinator": at_once}) as instance:
        yield instance


def tick_at(store: Store, path: Path, instance: DagsterInstance) -> list[tuple[str, str | None]]:
    """What the schedule asks for now: (asset, partition) of each run, or the reason why nothing."""
    found = requests_at(store, path, instance)
    if isinstance(found, str):
        return [(found, None)]
    return [((request.asset_selection or [])[0].path[-1], request.partition_key) for request in found]


def requests_at(store: Store, path: Path, instance: DagsterInstance) -> Sequence[RunRequest] | str:
    """The runs that the schedule asks for now, or the reason why it asks for none."""
    definitions = build_definitions([read_experiment(str(path))], store=StoreLocation(root=store.root))
    schedule = definitions.resolve_schedule_def("exp_evaluation_schedule")
    context = build_schedule_context(
        instance,
        resources={"store": StoreLocation(root=store.root)},
        scheduled_execution_time=NIGHT,
        repository_def=definitions.get_repository_def(),
    )
    found = schedule.evaluate_tick(context)
    return found.skip_message or found.run_requests or []


def test_the_schedule_fires_by_itself_and_the_scores_are_there(
    store: Store, experiment_file: Path, instance: DagsterInstance, tmp_path: Path
) -> None:
    publish(store, 1, seed=1)
    code = tmp_path / "code.py"
    code.write_text(CODE.format(path=str(experiment_file), root=store.root), encoding="utf-8")
    target = PythonFileTarget(
        python_file=str(code), attribute=None, working_directory=str(Path.cwd()), location_name="x"
    )
    logger, times = logging.getLogger("scheduler"), {}
    with create_test_daemon_workspace_context(target, instance) as workspace:
        for minutes in (0, 1):
            with freeze_time(NIGHT + datetime.timedelta(minutes=minutes)):
                list(launch_scheduled_runs(workspace, logger, NIGHT + datetime.timedelta(minutes=minutes), times))
            if minutes == 0:
                assert instance.get_runs_count() == 0
        (run,) = instance.get_runs()
        poll_for_finished_run(instance, run.run_id, timeout=60)
    (run,) = instance.get_runs()
    assert run.status == DagsterRunStatus.SUCCESS
    assert run.tags["dagster/schedule_name"] == "exp_evaluation_schedule"
    assert run.tags["dagster/partition"] == "0000"
    assert set(read_scores(store, "exp", 1)) == {"heldout", "heldout_sampled"}
    event = instance.get_latest_materialization_event(AssetKey(["exp", "benchmark_scores"]))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert "%** accuracy heldout," in str(metadata["numbers"].value)
    assert "| heldout_sampled | **" in str(metadata["benchmarks"].value)
    check = instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(AssetKey(["exp", "benchmark_scores"]), "no_regression"), 1
    )
    assert check


def test_ticks_skip_what_is_scored_by_the_same_protocol(
    store: Store, experiment_file: Path, instance: DagsterInstance
) -> None:
    experiment = read_experiment(str(experiment_file)).experiment
    assert tick_at(store, experiment_file, instance) == [("base_scores", None)]
    run_evaluate(experiment, store, 0)
    assert tick_at(store, experiment_file, instance)[0][0].endswith("are scored already")
    publish(store, 1, seed=1)
    assert tick_at(store, experiment_file, instance) == [("benchmark_scores", "0000")]
    run_evaluate(experiment, store, 1)
    experiment_file.write_text(experiment_file.read_text() + "  protocols: {heldout: {max_tokens: 3}}\n")
    assert tick_at(store, experiment_file, instance) == [("benchmark_scores", "0000")]


def test_an_evaluation_that_failed_is_not_asked_for_again(
    store: Store, experiment_file: Path, instance: DagsterInstance
) -> None:
    assert tick_at(store, experiment_file, instance) == [("base_scores", None)]
    (asked,) = requests_at(store, experiment_file, instance)
    run = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=dict(asked.tags))
    assert f"is under way: run {run.run_id}" in tick_at(store, experiment_file, instance)[0][0]
    instance.report_run_failed(run)
    assert f"is not tried again, run {run.run_id}" in tick_at(store, experiment_file, instance)[0][0]
    experiment_file.write_text(experiment_file.read_text() + "  protocols: {heldout: {max_tokens: 3}}\n")
    assert tick_at(store, experiment_file, instance) == [("base_scores", None)], "other settings may go well"


def test_pinned_policies_are_evaluated_too(store: Store, experiment_file: Path, instance: DagsterInstance) -> None:
    from evals.run.stage import run_pinned

    folder = publish(store, 1, seed=1)
    experiment_file.write_text(experiment_file.read_text() + f"  pinned: [{folder}]\n")
    experiment = read_experiment(str(experiment_file)).experiment
    run_evaluate(experiment, store, 1)
    assert tick_at(store, experiment_file, instance) == [("pinned_scores", None)]
    report = run_pinned(experiment, store)
    assert report.rows == 80
    assert run_pinned(experiment, store).skipped
    assert tick_at(store, experiment_file, instance)[0][0].endswith("are scored already")


def test_nothing_is_evaluated_before_there_is_a_policy(
    experiment_file: Path, instance: DagsterInstance, tmp_path: Path
) -> None:
    empty = open_store(str(tmp_path / "empty"))
    assert "no published policy" in tick_at(empty, experiment_file, instance)[0][0]


def test_a_regression_is_caught(store: Store, experiment_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """policy[1] answers everything rightly, policy[2] is untrained again: the check of generation 1 must fail."""
    from evals.run.responses import Sampler

    experiment = read_experiment(str(experiment_file)).experiment
    run_evaluate(experiment, store, 0)
    publish(store, 1, seed=1)
    publish(store, 2, seed=2)
    assert no_regression(store, experiment, -1).passed is None
    sample = Sampler.sample
    with monkeypatch.context() as patched:

        def perfect(self: Sampler, entry, problems):  # type: ignore[no-untyped-def]
            rows = sample(self, entry, problems)
            return rows.set_column(rows.schema.get_field_index("response_text"), "response_text", rows["answer"])

        patched.setattr(Sampler, "sample", perfect)
        run_evaluate(experiment, store, 1)
    run_evaluate(experiment, store, 2)
    assert no_regression(store, experiment, 0).passed
    found = no_regression(store, experiment, 1)
    assert not found.passed
    assert "best before 1.000 by policy[1]" in found.description
    assert found.numbers["heldout_difference_high"] < 0
