"""`tbrm run`: the loop through the assets, whole, killed and resumed."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetCheckKey, AssetKey, AssetRecordsFilter, DagsterInstance, DagsterRunStatus
from starlette.testclient import TestClient

from assets.definitions import load_definitions
from pipeline.store import open_store
from tests.support.dagster_app import dagster_app
from tests.support.tiny import finish, tbrm, write_tiny

pytestmark = pytest.mark.xdist_group("headless")

ASSETS = ("base_policy", "policy", "rollouts", "rewards", "ref_logprobs", "trained_policy")


def materialized(instance: DagsterInstance, name: str) -> list[str | None]:
    """Partitions of tiny/<name> in the order they were materialized."""
    wanted = AssetRecordsFilter(AssetKey(["tiny", name]))
    return [r.partition_key for r in instance.fetch_materializations(wanted, limit=100, ascending=True).records]


def wait_for_stage(folder: Path, command: str, process_id: int, timeout_s: float = 400.0) -> None:
    """Wait until the stage's own process exists."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if any(command in line for line in stage_processes(folder)):
            return
        assert Path(f"/proc/{process_id}").exists(), "tbrm run ended early"
        time.sleep(0.02)
    raise AssertionError(f"no {command} stage within {timeout_s} s")


def stage_processes(folder: Path) -> list[str]:
    """Command lines of the processes that work below `folder`."""
    lines: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and "assets.processes.child" in line:
            lines.append(line)
    return lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished generations of the tiny experiment under data/."""
    folder = tmp_path_factory.mktemp("headless")
    write_tiny(folder, generations=2)
    output = finish(tbrm(folder, "run", "tiny"))
    assert "generation 2 of 2" in output
    assert "tbrm ui" in output
    return folder


@pytest.fixture
def instance(finished: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.from_config(str(finished / "data" / "dagster_home")) as found:
        yield found


def test_every_generation_is_in_the_store_and_in_the_history(finished: Path, instance: DagsterInstance) -> None:
    store = open_store(str(finished / "data"))
    for table in ("prompts", "rollouts", "rewards", "ref_logprobs"):
        assert store.generations("tiny", table) == [0, 1]
    assert {name: materialized(instance, name) for name in ASSETS} == {
        "base_policy": [None],
        "policy": ["0000", "0001", "0002"],
        "rollouts": ["0000", "0001"],
        "rewards": ["0000", "0001"],
        "ref_logprobs": ["0000", "0001"],
        "trained_policy": ["0000", "0001"],
    }
    assert all(run.status == DagsterRunStatus.SUCCESS for run in instance.get_runs())


def test_metadata_can_be_plotted(instance: DagsterInstance) -> None:
    event = instance.get_latest_materialization_event(AssetKey(["tiny", "rewards"]))
    assert event
    assert event.asset_materialization
    metadata = {key: value.value for key, value in event.asset_materialization.metadata.items()}
    assert next(iter(metadata)) == "numbers", "Dagster keeps the order"
    assert metadata["dagster/row_count"] == 32
    assert 0.0 <= float(str(metadata["sampled reward, %"])) <= 100.0
    assert "| prompt | response |" in str(metadata["sample_trajectories"])


def test_checks_were_evaluated(instance: DagsterInstance) -> None:
    graph_checks = [
        ("rollouts", "no_collapse"),
        ("rollouts", "engine_agreement"),
        ("rewards", "aligned_with_rollouts"),
        ("rewards", "verdict_rates"),
        ("ref_logprobs", "aligned_with_rollouts"),
        ("ref_logprobs", "logprob_agreement"),
        ("trained_policy", "made_progress"),
    ]
    for asset, check in graph_checks:
        key = AssetCheckKey(AssetKey(["tiny", asset]), check)
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
        assert len(records) == 2, key


def test_policies_name_their_parents(instance: DagsterInstance) -> None:
    event = instance.get_latest_materialization_event(AssetKey(["tiny", "policy"]))
    assert event
    assert event.asset_materialization
    metadata = event.asset_materialization.metadata
    assert event.asset_materialization.partition == "0002"
    assert "tiny/policy/generation=0001" in str(metadata["parents"].value)


SHOWN = """{ runsOrError { ... on Runs { results { jobName status repositoryOrigin {
      repositoryName repositoryLocationName } } } }
  repositoryOrError(repositorySelector: {repositoryLocationName: "assets.definitions",
    repositoryName: "__repository__"}) { ... on Repository { jobs { name runs(limit: 5) { status } } } } }"""
"""What the overview asks for: a row of the timeline and a status bar for each job of the code location."""


def test_the_first_screen_of_the_ui_shows_the_runs(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    for name in ("DAGSTER_HOME", "TBRM_ROOT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("assets.definitions.defs", load_definitions(finished / "experiments"))
    with dagster_app(finished / "data") as served:
        answer = TestClient(served.app).post("/graphql", json={"query": SHOWN}).json()
    assert "errors" not in answer
    runs = answer["data"]["runsOrError"]["results"]
    here = {"repositoryName": "__repository__", "repositoryLocationName": "assets.definitions"}
    assert [run["repositoryOrigin"] for run in runs] == [here] * 3
    bars = {job["name"]: job["runs"] for job in answer["data"]["repositoryOrError"]["jobs"]}
    assert bars["tiny_base_policy"] == [{"status": "SUCCESS"}]
    assert bars["tiny_generation"] == [{"status": "SUCCESS"}] * 2


def test_a_finished_run_has_nothing_left_to_do(finished: Path, instance: DagsterInstance) -> None:
    before = len(instance.get_runs())
    told = finish(tbrm(finished, "run", "tiny", "--json")).splitlines()  # what tests start has one stream for both
    assert "tiny: everything is finished" in told
    document = json.loads(next(line for line in told if line.startswith("{")))
    assert (document["run"], document["status"]["finished"], document["status"]["to_do"]) == (None, 2, 0)
    assert len(instance.get_runs()) == before


@pytest.mark.parametrize("more", [[], ["--set", "generations=3"]])
def test_other_settings_are_refused_before_anything_runs(
    finished: Path, instance: DagsterInstance, more: list[str]
) -> None:
    before = len(instance.get_runs())
    process = tbrm(finished, "run", "tiny", "--set", "training.objective=grpo", *more)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 1
    assert "trained_policy of generations 0 to 1:\n  training.objective: tbrm there, grpo now" in output
    assert "--name NEW" in output
    assert "tiny: grpo" not in output
    assert len(instance.get_runs()) == before


def test_a_fork_runs_from_its_policy_on(finished: Path) -> None:
    fork = ["--name", "forked", "--fork-from"]
    nothing_left = tbrm(finished, "run", "tiny", *fork, "2")
    assert "set generations=3" in nothing_left.communicate(timeout=400)[0]
    output = finish(tbrm(finished, "run", "tiny", *fork, "1", "--set", "training.objective=grpo"))
    assert "generation 1 of 2" not in output
    assert "generation 2 of 2" in output
    assert "forked: grpo" in output
    store = open_store(str(finished / "data"))
    assert store.generations("forked", "rollouts") == store.generations("forked", "trained_policy") == [1]
    manifest = store.partition("forked", "rollouts", 1).manifest()
    assert manifest.configuration is not None
    assert "objective: grpo" in (finished / "data" / manifest.configuration).read_text()


@pytest.mark.parametrize("stage", ["rollouts", "train"])
def test_killed_and_started_again_it_finishes(tmp_path: Path, stage: str) -> None:
    write_tiny(tmp_path, generations=1)
    process = tbrm(tmp_path, "run", "tiny")
    wait_for_stage(tmp_path, f"assets.processes.child {stage} ", process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while stage_processes(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stage_processes(tmp_path) == [], "stages of a killed run must end with it"
    finish(tbrm(tmp_path, "run", "tiny"))
    with DagsterInstance.from_config(str(tmp_path / "data" / "dagster_home")) as instance:
        statuses = [run.status for run in instance.get_runs()]
        assert materialized(instance, "policy") == ["0000", "0001"]
    assert DagsterRunStatus.FAILURE in statuses
    assert not {DagsterRunStatus.STARTED, DagsterRunStatus.NOT_STARTED} & set(statuses)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path, generations=1)
    first = tbrm(tmp_path, "run", "tiny")
    wait_for_stage(tmp_path, "assets.processes.child", first.pid)
    second = tbrm(tmp_path, "run", "tiny")
    output, _ = second.communicate(timeout=240)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=240)
    assert second.returncode == 1
    assert "is being written by process" in output


def test_a_failed_stage_says_why_and_goes_on_after_the_fix(tmp_path: Path) -> None:
    path = write_tiny(tmp_path, generations=1)
    good = path.read_text()
    path.write_text(good.replace("builtin:tiny-arith", "no/such/folder"))
    process = tbrm(tmp_path, "run", "tiny")
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 1
    assert "tbrm base-policy (exit status 1)" in output
    assert "no/such/folder" in output
    path.write_text(good)
    finish(tbrm(tmp_path, "run", "tiny"))
