"""What Dagster is told by runs of the graph: which results are out of date and why, what checks say, of branches."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    build_sensor_context,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from assets.definitions import build_definitions
from assets.experiment.source import read_experiments
from assets.graph.history import keep_checks
from assets.graph.step import StoreLocation
from pipeline.policies.refs import published
from pipeline.run.configurations import Fork, read_fork
from pipeline.store import Store, open_store
from tests.support.stages_here import Here
from tests.support.tiny import write_tiny

LOOP = ("rollouts", "rewards", "ref_logprobs", "trained_policy", "benchmark_scores")
EVALUATION = "evaluation: {benchmarks: [heldout], protocols: {heldout: {max_problems: 8, max_tokens: 3}}}\n"


@dataclass(frozen=True)
class Tiny:
    """A tiny experiment with generation 0 done, as Dagster's instance and the store have it."""

    folder: Path
    instance: DagsterInstance

    @property
    def store(self) -> Store:
        return open_store(str(self.folder / "data"))

    @property
    def definitions(self) -> Definitions:
        sources, broken = read_experiments(self.folder / "experiments", self.store)
        return build_definitions(sources, broken, StoreLocation(root=self.store.root), Here())

    def run(
        self, job: str, assets: Sequence[AssetKey] | None, partition: str | None, config: Any = None, **tags: str
    ) -> str:
        """Materialize `assets` by a job; what its failed step says, empty where all went well."""
        result = self.definitions.resolve_job_def(job).execute_in_process(
            run_config=config or {},
            instance=self.instance,
            partition_key=partition,
            asset_selection=assets,
            raise_on_error=False,
            tags=tags,
        )
        failed = [event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure]
        assert bool(failed) != result.success
        return " ".join(str(one.description) for one in failed if one)

    def generation(self, partition: str, name: str = "tiny", config: Any = None) -> str:
        return self.run(f"{name}_generation", None, partition, config)

    def stale(self, asset: str, partition: str | None, name: str = "tiny") -> tuple[StaleStatus, list[str]]:
        """Whether Dagster takes a result for out of date, and the reasons that it gives."""
        graph = self.definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        key = AssetKey([name, asset])
        return resolver.get_status(key, partition), [c.reason for c in resolver.get_stale_root_causes(key, partition)]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of the experiment, home of the instance) with generation 0 done."""
    folder, home = tmp_path_factory.mktemp("begun"), tmp_path_factory.mktemp("home")
    path = write_tiny(folder, generations=3)
    path.write_text(path.read_text() + EVALUATION)
    with DagsterInstance.local_temp(str(home)) as instance:
        tiny = Tiny(folder, instance)
        assert not tiny.run("tiny_base_policy", None, None)
        assert not tiny.generation("0000")
    return folder, home


@pytest.fixture
def tiny(begun: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiny]:
    folder = shutil.copytree(begun[0], tmp_path / "begun")
    monkeypatch.chdir(folder)
    with DagsterInstance.local_temp(str(shutil.copytree(begun[1], tmp_path / "home"))) as instance:
        yield Tiny(folder, instance)


def labelled_anew(verifier: str) -> dict[str, Any]:
    return {"ops": {"tiny__rewards": {"config": {"verifier": verifier, "replace": True}}}}


def test_after_other_labels_what_was_trained_on_them_is_out_of_date(tiny: Tiny) -> None:
    for asset in LOOP:
        assert tiny.stale(asset, "0000") == (StaleStatus.FRESH, []), asset
    assert tiny.stale("rollouts", "0001")[0] is StaleStatus.MISSING
    rewards = [AssetKey(["tiny", "rewards"])]
    assert not tiny.run("tiny_generation", rewards, "0000"), "the same labels again"
    assert tiny.stale("trained_policy", "0000") == (StaleStatus.FRESH, [])
    assert not tiny.run("tiny_generation", rewards, "0000", labelled_anew("exact_integer"))
    for asset in ("rollouts", "ref_logprobs", "rewards"):
        assert tiny.stale(asset, "0000")[0] is StaleStatus.FRESH, asset
    assert tiny.stale("trained_policy", "0000") == (StaleStatus.STALE, ["has a new data version"])
    otherwise = {"ops": {"tiny__trained_policy": {"config": {"learning_rate": 1e-3, "replace": True}}}}
    assert not tiny.run("tiny_generation", [AssetKey(["tiny", "trained_policy"])], "0000", otherwise)
    assert tiny.stale("trained_policy", "0000") == (StaleStatus.FRESH, [])
    assert tiny.stale("benchmark_scores", "0000") == (StaleStatus.STALE, ["has a new data version"])


def test_other_settings_in_the_yaml_make_out_of_date_what_they_decide(tiny: Tiny) -> None:
    path = tiny.folder / "experiments" / "tiny.yaml"
    path.write_text(path.read_text().replace("beta: 0.01", "beta: 0.02"))
    assert tiny.stale("trained_policy", "0000") == (StaleStatus.STALE, ["has a new code version"])
    assert tiny.stale("rewards", "0000") == (StaleStatus.FRESH, [])
    path.write_text(path.read_text().replace("beta: 0.02", "beta: 0.01, micro_batch_tokens: 64"))
    assert tiny.stale("trained_policy", "0000") == (StaleStatus.FRESH, []), "this decides nothing"


def test_a_check_knows_its_partition_and_one_that_does_not_apply_has_not_passed(tiny: Tiny) -> None:
    assert not tiny.generation("0001")
    storage = tiny.instance.event_log_storage

    def statuses(asset: str, check: str) -> dict[str | None, str]:
        key = AssetCheckKey(AssetKey(["tiny", asset]), check)
        found = reversed(storage.get_asset_check_execution_history(key, limit=10))
        return {record.partition: record.status.value for record in found}

    assert statuses("rollouts", "no_collapse").keys() == {"0000", "0001"}
    assert statuses("ref_logprobs", "logprob_agreement") == {"0000": "SUCCEEDED", "0001": "PLANNED"}
    assert statuses("trained_policy", "made_progress") == {"0000": "SUCCEEDED", "0001": "SUCCEEDED"}
    last = tiny.instance.get_latest_materialization_event(AssetKey(["tiny", "ref_logprobs"]))
    assert last is not None
    assert last.asset_materialization is not None
    told = last.asset_materialization.metadata["logprob_agreement does not apply"]
    assert "not the reference policy" in str(told.value)


def test_a_canceled_run_leaves_checks_as_they_were(tiny: Tiny) -> None:
    key = AssetCheckKey(AssetKey(["tiny", "rollouts"]), "no_collapse")
    run = create_run_for_test(tiny.instance, status=DagsterRunStatus.STARTED, tags={"dagster/partition": "0000"})
    planned = AssetCheckEvaluationPlanned(
        asset_key=key.asset_key, check_name=key.name, partitions_subset=DefaultPartitionsSubset({"0000"})
    )
    event = DagsterEvent(
        DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value, run.job_name, event_specific_data=planned
    )
    tiny.instance.report_dagster_event(event, run.run_id)
    tiny.instance.report_run_canceled(run)

    def newest() -> AssetCheckExecutionRecord:
        wanted = PartitionKeyFilter(key="0000")
        return tiny.instance.event_log_storage.get_asset_check_execution_history(key, 1, partition_filter=wanted)[0]

    assert newest().run_id == run.run_id, "Dagster shows it as skipped"
    assert keep_checks(tiny.instance, run) == ["tiny/rollouts:no_collapse"]
    assert newest().status.value == "SUCCEEDED"
    assert keep_checks(tiny.instance, run) == []


def test_a_branch_has_generations_scores_and_lineage_beside_those_of_its_origin(tiny: Tiny) -> None:
    assert not tiny.generation("0001")
    before = {str(p): p.read_bytes() for p in (tiny.folder / "data/tiny").rglob("*") if p.is_file()}
    branch: dict[str, Any] = {"experiment": "tiny", "generation": 1, "overrides": ["training.objective=grpo"]}

    def make(name: str, **changes: Any) -> str:
        tiny.instance.add_dynamic_partitions("branches", [name])
        config = {"ops": {"branches": {"config": branch | changes}}}
        return tiny.run("__ASSET_JOB", [AssetKey("branches")], name, config)

    assert "nothing to do: set generations=8" in make("nowhere", generation=7)
    assert "cannot set `policy.base`" in make("elsewhere", overrides=["policy.base=somebody/else"])
    assert "is an experiment of that name already" in make("tiny")
    assert "Did you mean tiny?" in make("typo", experiment="tiney")
    for _ in range(2):  # again is no change
        assert not make("other")
    assert read_fork(tiny.store, "other") == Fork("tiny", 1, published(tiny.store, "tiny", 1)["policy_id"])

    graph = tiny.definitions.resolve_asset_graph()
    node = graph.get(AssetKey(["other", "trained_policy"]))
    assert node.partitions_def is not None
    assert node.partitions_def.get_partition_keys() == ["0001", "0002"]
    assert graph.get(AssetKey(["other", "policy"])).parent_keys == {AssetKey(["tiny", "policy"])}
    assert not tiny.generation("0001", "other")
    assert tiny.store.generations("other", "scores") == [2]
    assert published(tiny.store, "other", 2)["policy_id"] != published(tiny.store, "tiny", 2)["policy_id"]
    assert before == {str(p): p.read_bytes() for p in (tiny.folder / "data/tiny").rglob("*") if p.is_file()}
    assert tiny.stale("trained_policy", "0001", "other") == (StaleStatus.FRESH, [])


def asked_for(tiny: Tiny) -> list[str | None]:
    """Partitions that the sensor asks for now."""
    definitions = tiny.definitions
    context = build_sensor_context(
        tiny.instance,
        repository_def=definitions.get_repository_def(),
        resources={"store": StoreLocation(root=tiny.store.root)},
    )
    found = definitions.resolve_sensor_def("tiny_publish").evaluate_tick(context).run_requests or []
    return [request.partition_key for request in found]


def queued_run(instance: DagsterInstance, assets: Sequence[AssetKey], tags: dict[str, str]) -> str:
    target = LoadableTargetOrigin(module_name="assets.definitions")
    location: Any = InProcessCodeLocationOrigin(target, location_name="assets.definitions")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), "tiny_generation")
    run = create_run_for_test(
        instance,
        status=DagsterRunStatus.QUEUED,
        tags=tags,
        asset_selection=frozenset(assets),
        remote_job_origin=origin,
    )
    return run.run_id


def test_a_generation_is_asked_for_once(tiny: Tiny) -> None:
    trained = [AssetKey(["tiny", "trained_policy"])]
    assert not tiny.run("tiny_generation", trained, "0000"), "a second event of the same generation"
    assert asked_for(tiny) == ["0001"]
    waits = queued_run(tiny.instance, trained, {"dagster/partition": "0001", "tbrm/experiment": "tiny"})
    assert tiny.instance.get_run_by_id(waits).status is DagsterRunStatus.QUEUED  # type: ignore[union-attr]
    assert asked_for(tiny) == []


def test_a_failed_generation_ends_the_backfill_that_trains(tiny: Tiny) -> None:
    graph = tiny.definitions.resolve_asset_graph()

    def backfill(name: str, *assets: str) -> str:
        keys = [AssetKey(["tiny", asset]) for asset in assets]
        found = PartitionBackfill.from_asset_partitions(
            backfill_id=name,
            asset_graph=graph,
            partition_names=["0002"],
            asset_selection=keys,
            backfill_timestamp=0.0,
            tags={},
            dynamic_partitions_store=tiny.instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=None,
        )
        tiny.instance.add_backfill(found)
        tags = {"dagster/backfill": name}
        waits = queued_run(tiny.instance, keys, tags)
        assert "policy[2] of tiny is not published" in tiny.run("tiny_generation", keys, "0002", **tags)
        return waits

    waiting = backfill("trains", *LOOP[:4])
    assert tiny.instance.get_backfill("trains").status is BulkActionStatus.CANCELING  # type: ignore[union-attr]
    assert tiny.instance.get_run_by_id(waiting).status is DagsterRunStatus.CANCELED  # type: ignore[union-attr]
    waiting = backfill("samples", "rollouts")
    assert tiny.instance.get_backfill("samples").status is BulkActionStatus.REQUESTED  # type: ignore[union-attr]
    assert tiny.instance.get_run_by_id(waiting).status is DagsterRunStatus.QUEUED  # type: ignore[union-attr]
