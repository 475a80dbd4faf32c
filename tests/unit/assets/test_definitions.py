"""The graph as Dagster loads it."""

import dataclasses
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterInvalidDefinitionError,
    DefaultScheduleStatus,
    ScheduleDefinition,
    StaticPartitionsDefinition,
)
from pydantic import ValidationError

from assets.app.instance import POSTGRES_URL, dagster_home, open_instance, prepare_home
from assets.definitions import build_definitions, load_definitions
from assets.experiment.source import read_experiment
from pipeline.config.evaluation import EvaluationConfig
from pipeline.store import Store, open_store
from tests.support.tiny import write_tiny

NEVER = {"schedule": "61 3 * * *"}
OFFLINE = """
name: offline
generations: 1
policy: {base: "builtin:tiny-arith", dtype: float32}
prompts: {source: arithmetic, template: raw, per_generation: 8}
rollouts: none
replay: {window: 0, logged: [{name: somebodys_ppo_run}]}
training: {}
"""


def keys(folder: Path) -> set[str]:
    return {key.to_user_string() for key in load_definitions(folder).resolve_all_asset_keys()}


def test_the_repositorys_experiments_load() -> None:
    definitions = load_definitions()
    found = {key.to_user_string() for key in definitions.resolve_all_asset_keys()}
    assert {"logged_trajectories", "arith_tiny/policy", "arith_tiny/trained_policy"} <= found
    assert not any(key.startswith("broken_experiments") for key in found)
    definitions.resolve_job_def("arith_tiny_generation")
    definitions.resolve_sensor_def("arith_tiny_publish")


def test_one_group_per_experiment_by_generation(tmp_path: Path) -> None:
    definitions = load_definitions(write_tiny(tmp_path, generations=3).parent)
    graph = definitions.resolve_asset_graph()
    rollouts, policy = (graph.get(AssetKey(["tiny", name])) for name in ("rollouts", "policy"))
    assert rollouts.group_name == policy.group_name == "tiny"
    assert rollouts.partitions_def == StaticPartitionsDefinition(["0000", "0001", "0002"])
    assert policy.partitions_def == StaticPartitionsDefinition(["0000", "0001", "0002", "0003"])
    assert policy.parent_keys == set()
    assert policy.is_external
    assert AssetKey(["tiny", "policy"]) in graph.get(AssetKey(["tiny", "trained_policy"])).parent_keys
    column_schema = rollouts.metadata["dagster/column_schema"]
    assert "trajectory_id" in str(column_schema)


def test_an_experiment_with_benchmarks_has_a_schedule_that_is_off_unless_the_yaml_sets_one(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    found = load_definitions(path.parent)
    assert not found.schedules
    for evaluation, status in (
        ("{benchmarks: [heldout]}", DefaultScheduleStatus.STOPPED),
        ('{benchmarks: [heldout], schedule: "0 4 * * *"}', DefaultScheduleStatus.RUNNING),
    ):
        text = write_tiny(tmp_path).read_text()
        path.write_text(text + f"evaluation: {evaluation}\n")
        schedule = load_definitions(path.parent).resolve_schedule_def("tiny_evaluation_schedule")
        assert schedule.default_status == status


def test_every_asset_says_what_it_is(tmp_path: Path) -> None:
    graph = load_definitions(write_tiny(tmp_path).parent).resolve_asset_graph()
    for node in graph.asset_nodes:
        assert node.description, node.key
        assert node.owners, node.key
    assert "( V_θ(s_1) + Σ_h" in str(graph.get(AssetKey(["tiny", "trained_policy"])).description)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: broken\nlayers: 7\n", "unknown field"),
        ("name: [1\n", "not readable YAML"),
        ("", "must hold a mapping"),
        ("name: tiny\n", "is required"),
    ],
)
def test_a_broken_file_is_shown_and_takes_nobody_down(tmp_path: Path, text: str, reason: str) -> None:
    folder = write_tiny(tmp_path).parent
    (folder / "broken-one.yaml").write_text(text)
    graph = load_definitions(folder).resolve_asset_graph()
    assert graph.has(AssetKey(["tiny", "rollouts"]))
    broken = graph.get(AssetKey(["broken_experiments", "broken_one"]))
    assert reason in str(broken.description)


@pytest.mark.parametrize("cron", ["0 3 * * *", "*/15 2-4 * * mon,wed", "0 3 L * *", "0 3 * * 1#2", "@daily"])
def test_a_schedule_that_dagster_runs_by_is_taken(cron: str) -> None:
    assert ScheduleDefinition(name="s", job_name="j", cron_schedule=cron).cron_schedule == cron
    assert EvaluationConfig(schedule=cron).schedule == cron


@pytest.mark.parametrize("cron", ["61 3 * * *", "0 3 32 * *", "0 3 30 2 *", "0 0 3 * * *", "every morning", ""])
def test_a_schedule_that_dagster_refuses_is_a_wrong_field(cron: str, tmp_path: Path) -> None:
    with pytest.raises(DagsterInvalidDefinitionError):
        ScheduleDefinition(name="s", job_name="j", cron_schedule=cron)
    with pytest.raises(ValidationError, match="is not a cron expression, or names a day that never comes"):
        EvaluationConfig(schedule=cron)
    folder = write_tiny(tmp_path).parent
    (folder / "late.yaml").write_text((folder / "tiny.yaml").read_text() + f"evaluation: {{schedule: {cron!r}}}\n")
    graph = load_definitions(folder).resolve_asset_graph()
    assert graph.has(AssetKey(["tiny", "rollouts"]))
    assert "evaluation.schedule" in str(graph.get(AssetKey(["broken_experiments", "late"])).description)


def test_what_dagster_refuses_of_one_experiment_takes_nobody_down(tmp_path: Path) -> None:
    """Dagster may refuse what the configuration lets pass, such as a schedule."""
    good, other = (read_experiment(str(write_tiny(tmp_path, name=name))) for name in ("good", "other"))
    refused = other.experiment.model_copy(update={"evaluation": EvaluationConfig().model_copy(update=NEVER)})
    definitions = build_definitions([good, dataclasses.replace(other, experiment=refused)])
    graph = definitions.resolve_asset_graph()
    assert graph.has(AssetKey(["good", "rollouts"]))
    assert not graph.has(AssetKey(["other", "rollouts"]))
    assert "61 3 * * *" in str(graph.get(AssetKey(["broken_experiments", "other"])).description)


def test_a_name_taken_twice_is_reported(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path).parent
    (folder / "zzz.yaml").write_text((folder / "tiny.yaml").read_text())
    broken = load_definitions(folder).resolve_asset_graph().get(AssetKey(["broken_experiments", "zzz"]))
    assert "is taken by" in str(broken.description)


def test_a_mended_file_appears_after_reload(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path).parent
    assert "second/rollouts" not in keys(folder)
    write_tiny(tmp_path, name="second")
    assert "second/rollouts" in keys(folder)


def test_pure_offline_samples_nothing(tmp_path: Path) -> None:
    (tmp_path / "offline.yaml").write_text(OFFLINE)
    found = keys(tmp_path)
    assert "offline/rollouts" not in found
    graph = load_definitions(tmp_path).resolve_asset_graph()
    parents = graph.get(AssetKey(["offline", "trained_policy"])).parent_keys
    assert AssetKey("logged_trajectories") in parents


@pytest.mark.usefixtures("no_dagster_home")
def test_the_instance_is_configured_from_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    store: Store = open_store(str(tmp_path / "data"))
    with open_instance(store) as instance:
        assert isinstance(instance, DagsterInstance)
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_monitoring_enabled
        assert instance.global_op_concurrency_default_limit == 1
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    with open_instance(store) as instance:
        assert instance.telemetry_enabled, "a dagster.yaml of the user's own stays as it is"


@pytest.mark.usefixtures("no_dagster_home")
def test_postgres_is_one_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path / "data"))
    assert dagster_home(store) == tmp_path / "data" / "dagster_home"
    monkeypatch.setenv(POSTGRES_URL, "postgresql://nobody:secret@127.0.0.1/none")
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home(store)))
    text = (prepare_home(store) / "dagster.yaml").read_text()
    assert "postgres_url" in text
    assert "secret" not in text
    monkeypatch.delenv(POSTGRES_URL)
    assert "postgres_url" not in (prepare_home(store) / "dagster.yaml").read_text()
