"""What users do in the UI, done through the same GraphQL: launch, watch, terminate, let the sensor drive."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.served_ui import LOCATION, Ui, served
from tests.support.tiny import tbrm, write_tiny

pytestmark = pytest.mark.xdist_group("ui graphql")

LOOP = [["tiny", name] for name in ("rollouts", "rewards", "ref_logprobs", "trained_policy")]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The UI of a tiny experiment of three generations with policy[0] ready, and one broken file beside it."""
    folder = tmp_path_factory.mktemp("ui")
    path = write_tiny(folder, generations=3)
    (path.parent / "broken.yaml").write_text("name: broken\nlayers: 7\n")
    write_tiny(folder, generations=1, prompts=20_000 // 4, name="long")
    with served(folder / "data", folder) as found:
        for name in ("tiny", "long"):
            run = found.launch(f"{name}_base_policy", [[name, "base_policy"]], None)
            assert found.wait(run) == "SUCCESS", found.messages(run)
        yield found


def test_a_broken_file_is_visible(ui: Ui) -> None:
    nodes = ui.query("{ assetNodes { assetKey { path } description } }")["assetNodes"]
    described = {"/".join(node["assetKey"]["path"]): node["description"] or "" for node in nodes}
    assert "unknown field" in described["broken_experiments/broken"]
    assert "tiny/rollouts" in described


def test_one_generation_then_a_readable_error(ui: Ui) -> None:
    run = ui.launch("tiny_generation", LOOP, "0000")
    assert ui.wait(run) == "SUCCESS", ui.messages(run)
    assert any("trajectories" in message for message in ui.messages(run)), "progress is in the run's log"
    early = ui.launch("tiny_generation", [["tiny", "rollouts"]], "0002")
    assert ui.wait(early) == "FAILURE"
    query = """query($r: ID!) { logsForRun(runId: $r) { ... on EventConnection { events {
               ... on ExecutionStepFailureEvent { failureMetadata { description } } } } } }"""
    events = ui.query(query, r=early)["logsForRun"]["events"]
    text = " ".join(e["failureMetadata"]["description"] for e in events if e.get("failureMetadata"))
    assert "policy[2] of tiny is not published yet" in text


def test_a_stage_is_made_again_with_another_setting(ui: Ui) -> None:
    # And back: the loop below refuses labels of two verifiers.
    for overrides in (["rewards.verifier=exact_integer"], []):
        config = {"ops": {"tiny__rewards": {"config": {"overrides": overrides, "replace": True}}}}
        run = ui.launch("tiny_generation", [["tiny", "rewards"]], "0000", config)
        assert ui.wait(run) == "SUCCESS", ui.messages(run)


def test_terminate_ends_the_process_tree_and_frees_the_slot(ui: Ui) -> None:
    run = ui.launch("long_generation", [["long", "rollouts"]], "0000")
    deadline = time.monotonic() + 400
    while not ui.stage_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ui.stage_processes(), ui.messages(run)
    ui.query("mutation($r: String!) { terminateRun(runId: $r) { __typename } }", r=run)
    assert ui.wait(run, 30) == "CANCELED"
    deadline = time.monotonic() + 15
    while ui.stage_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ui.stage_processes() == []
    query = '{ instance { concurrencyLimit(concurrencyKey: "gpu") { claimedSlots { runId } } } }'
    deadline = time.monotonic() + 400
    while ui.query(query)["instance"]["concurrencyLimit"]["claimedSlots"] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ui.query(query)["instance"]["concurrencyLimit"]["claimedSlots"] == []


def test_a_run_whose_process_is_lost_is_started_again_once(ui: Ui) -> None:
    run = ui.launch("long_generation", [["long", "rollouts"]], "0000")
    deadline = time.monotonic() + 480
    while not ui.stage_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    started = next(m for m in ui.messages(run) if m.startswith("Started process for run"))
    os.kill(int(started.rpartition("pid: ")[2].rstrip(").")), signal.SIGKILL)
    again: list[str] = []
    while not again and time.monotonic() < deadline:
        time.sleep(0.5)
        again = [one["runId"] for one in ui.runs() if one["tags"].get("dagster/parent_run_id") == run]
    assert again, ui.messages(run)
    while not ui.stage_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    ui.query("mutation($r: String!) { terminateRun(runId: $r) { __typename } }", r=again[0])
    assert ui.wait(again[0], 60) == "CANCELED"


def test_the_sensor_drives_the_loop_to_its_end(ui: Ui) -> None:
    started = "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }"
    assert ui.query(started, s=LOCATION | {"sensorName": "tiny_publish"})["startSensor"]["__typename"] == "Sensor"
    deadline = time.monotonic() + 400
    done: set[str | None] = set()
    while not {"0001", "0002"} <= done and time.monotonic() < deadline:
        time.sleep(1)
        runs = [run for run in ui.runs() if run["jobName"] == "tiny_generation" and run["status"] == "SUCCESS"]
        done = {run["tags"].get("dagster/partition") for run in runs}
    assert {"0001", "0002"} <= done
    query = """{ assetNodeOrError(assetKey: {path: ["tiny", "policy"]}) { ... on AssetNode {
               assetMaterializations { partition } } } }"""
    partitions: set[str] = set()
    while "0003" not in partitions and time.monotonic() < deadline:
        events = ui.query(query)["assetNodeOrError"]["assetMaterializations"]
        partitions = {event["partition"] for event in events}
        time.sleep(0.5)
    assert partitions >= {"0001", "0002", "0003"}, "the last policy is published too"


def test_a_second_ui_is_refused(ui: Ui) -> None:
    port = ui.url.rpartition(":")[2]
    for arguments, reason in ((["--port", port], "is in use"), ([], "is being written by process")):
        second = tbrm(ui.root.parent, "ui", "--root", str(ui.root), *arguments)
        output, _ = second.communicate(timeout=120)
        assert second.returncode == 1
        assert reason in output
    assert ui.query("{ version }")


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    with served(tmp_path / "data", tmp_path):
        pass
    left: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"DAGSTER_HOME={tmp_path}".encode() in entry.read_bytes():
                left.append((entry.parent / "cmdline").read_text())
    assert left == []
