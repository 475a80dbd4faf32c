"""Flows of the UI beyond one run, through its GraphQL: materialize all, fail and go on, evaluate, reload."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.policies.tiny import save_tiny_arith
from tests.support.served_ui import LOCATION, Ui, served
from tests.support.tiny import write_tiny

pytestmark = pytest.mark.xdist_group("ui flows")

STAGES = ("rollouts", "rewards", "ref_logprobs", "trained_policy")


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The UI of two tiny experiments of two generations; nothing is materialized yet."""
    folder = tmp_path_factory.mktemp("flows")
    for name in ("whole", "mended"):
        write_tiny(folder, generations=2, name=name)
    with served(folder / "data", folder) as found:
        yield found


def yaml_of(ui: Ui, name: str) -> Path:
    return ui.root.parent / "experiments" / f"{name}.yaml"


def failures(ui: Ui, run_id: str) -> str:
    """What the failed steps of a run say."""
    query = """query($r: ID!) { logsForRun(runId: $r) { ... on EventConnection { events {
               ... on ExecutionStepFailureEvent { failureMetadata { description } } } } } }"""
    events = ui.query(query, r=run_id)["logsForRun"]["events"]
    return " ".join(event["failureMetadata"]["description"] for event in events if event.get("failureMetadata"))


def materialized(ui: Ui, asset: list[str]) -> list[dict[str, Any]]:
    """Materializations of an asset, newest first: partition, run, numeric metadata."""
    query = """query($a: AssetKeyInput!) { assetOrError(assetKey: $a) { ... on Asset { assetMaterializations {
               partition runId metadataEntries { label ... on FloatMetadataEntry { floatValue }
               ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr } } } } } }"""
    return ui.query(query, a={"path": asset})["assetOrError"]["assetMaterializations"]


def add_partition(ui: Ui, of: str, key: str) -> None:
    """What "Add a partition" in the dialog of an asset does."""
    add = """mutation($r: RepositorySelector!, $d: String!, $k: String!) { addDynamicPartition(repositorySelector: $r,
             partitionsDefName: $d, partitionKey: $k) { __typename } }"""
    done = ui.query(add, r=LOCATION, d=of, k=key)["addDynamicPartition"]["__typename"]
    assert done == "AddDynamicPartitionSuccess"


def wait_until(condition: Any, timeout_s: float = 600.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)
    return bool(condition())


def test_materialize_all_runs_the_loop_to_its_end(ui: Ui) -> None:
    """Base policy, then every generation, one after the other: what the button above the graph asks for."""
    launch = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename
                ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
    selected = [{"path": ["whole", name]} for name in ("base_policy", *STAGES)]
    parameters = {"assetSelection": selected, "partitionNames": ["0000", "0001"]}
    data = ui.query(launch, p=parameters)["launchPartitionBackfill"]
    assert data["__typename"] == "LaunchBackfillSuccess", data
    query = "query($b: String!) { partitionBackfillOrError(backfillId: $b) { ... on PartitionBackfill { status } } }"

    def status() -> str:
        return ui.query(query, b=data["backfillId"])["partitionBackfillOrError"]["status"]

    assert wait_until(lambda: status() not in ("REQUESTED",)), status()
    runs = [(run["status"], run["tags"].get("dagster/partition")) for run in ui.runs()]
    assert status() == "COMPLETED_SUCCESS", runs
    trained = [m["partition"] for m in materialized(ui, ["whole", "trained_policy"])]
    assert trained == ["0001", "0000"], "in order"
    published = {m["partition"] for m in materialized(ui, ["whole", "policy"])}
    assert published == {"0000", "0001", "0002"}, "the last policy is published without a sensor"


def test_any_policy_is_evaluated_by_hand(ui: Ui) -> None:
    config: dict[str, Any] = {"experiment": "whole", "benchmarks": ["heldout"], "max_problems": 8}
    selection = [["evaluated_policies"]]
    add_partition(ui, "evaluated_policies", "whole:1")
    run = ui.launch("evaluate_a_policy", selection, "whole:1", {"ops": {"evaluated_policies": {"config": config}}})
    assert ui.wait(run) == "SUCCESS", failures(ui, run)
    entries = {e["label"]: e for e in materialized(ui, ["evaluated_policies"])[0]["metadataEntries"]}
    assert 0.0 <= entries["accuracy heldout_first_8, %"]["floatValue"] <= 100.0
    assert entries["policy"]["text"] == "whole:1"
    assert "| heldout_first_8 |" in entries["benchmarks"]["mdStr"]
    add_partition(ui, "evaluated_policies", "whole:7")
    run = ui.launch("evaluate_a_policy", selection, "whole:7", {"ops": {"evaluated_policies": {"config": config}}})
    assert ui.wait(run) == "FAILURE"
    assert "policy[7] of whole" in failures(ui, run)


def test_a_log_is_imported_as_a_new_partition(ui: Ui) -> None:
    add_partition(ui, "logged_datasets", "ppo")
    log = ui.root.parent / "ppo.jsonl"
    rows = [{"prompt": f"{a}+1=", "response": str(a + 1), "reward": 1.0, "answer": str(a + 1)} for a in range(10, 20)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_tiny_arith(ui.root.parent / "tokenizer", seed=0)
    config = {"files": [str(log)], "tokenizer": str(ui.root.parent / "tokenizer"), "behaviour_policy": "some-ppo"}
    ops: dict[str, Any] = {"ops": {"logged_trajectories": {"config": config}}}
    run = ui.launch("__ASSET_JOB", [["logged_trajectories"]], "ppo", ops)
    assert ui.wait(run) == "SUCCESS", failures(ui, run)
    imported = materialized(ui, ["logged_trajectories"])
    assert imported[0]["partition"] == "ppo"
    assert "`10+1=`" in {e["label"]: e for e in imported[0]["metadataEntries"]}["sample_responses"]["mdStr"]
    ops["ops"]["logged_trajectories"]["config"] = config | {"files": ["no/such/file.jsonl"], "replace": True}
    run = ui.launch("__ASSET_JOB", [["logged_trajectories"]], "ppo", ops)
    assert ui.wait(run) == "FAILURE"
    assert "no/such/file.jsonl" in failures(ui, run)


def test_a_mistyped_run_config_is_refused_before_anything_runs(ui: Ui) -> None:
    launch = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename
                ... on RunConfigValidationInvalid { errors { message } } } }"""
    parameters: dict[str, Any] = {
        "selector": LOCATION | {"pipelineName": "whole_generation", "assetSelection": [{"path": ["whole", "rewards"]}]},
        "mode": "default",
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "0000"}]},
    }
    for mistyped in ({"overides": ["rewards.verifier=exact_integer"]}, {"verifier": "exact_intege"}):
        parameters["runConfigData"] = {"ops": {"whole__rewards": {"config": mistyped}}}
        refused = ui.query(launch, p=parameters)["launchRun"]
        assert refused["__typename"] == "RunConfigValidationInvalid"
        assert any(word in refused["errors"][0]["message"] for word in ("overides", "exact_intege"))
    config = {"ops": {"whole__rewards": {"config": {"overrides": ["rewards.verifer=exact_integer"]}}}}
    run = ui.launch("whole_generation", [["whole", "rewards"]], "0000", config)
    assert ui.wait(run) == "FAILURE"
    assert "rewards.verifer" in failures(ui, run)


def test_a_failed_generation_stops_the_loop_and_goes_on_from_the_failed_stage(ui: Ui) -> None:
    run = ui.launch("mended_base_policy", [["mended", "base_policy"]], None)
    assert ui.wait(run) == "SUCCESS", failures(ui, run)
    started = "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }"
    ui.query(started, s=LOCATION | {"sensorName": "mended_publish"})
    path = yaml_of(ui, "mended")
    good = path.read_text()
    path.write_text(good + "reference: {policy: no/such/policy}\n")
    run = ui.launch("mended_generation", [["mended", stage] for stage in STAGES], "0000")
    assert ui.wait(run) == "FAILURE"
    assert "no/such/policy" in failures(ui, run)
    ticks = """query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { sensorState {
               ticks(limit: 1) { skipReason } } } } }"""

    def reason() -> str:
        found = ui.query(ticks, s=LOCATION | {"sensorName": "mended_publish"})["sensorOrError"]["sensorState"]["ticks"]
        return (found[0]["skipReason"] or "") if found else ""

    assert wait_until(lambda: "the loop stopped at generation 0000" in reason(), 120), reason()
    assert "no/such/policy" in reason()

    path.write_text(good)
    again = """mutation($p: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $p) { __typename
               ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
    data = ui.query(again, p={"parentRunId": run, "strategy": "FROM_FAILURE"})["launchRunReexecution"]
    assert data["__typename"] == "LaunchRunSuccess", data
    second = data["run"]["runId"]
    assert ui.wait(second) == "SUCCESS", failures(ui, second)
    assert [m["runId"] for m in materialized(ui, ["mended", "rollouts"])] == [run], "done stages are not run again"
    following = {"dagster/partition": "0001", "tbrm/experiment": "mended"}
    assert wait_until(lambda: any(following.items() <= run["tags"].items() for run in ui.runs())), (
        "the sensor goes on with the next generation"
    )


def test_a_branch_and_a_new_file_appear_after_reload_and_a_broken_one_beside_them_is_shown(ui: Ui) -> None:
    add_partition(ui, "branches", "whole_again")
    config = {"experiment": "whole", "generation": 1, "overrides": ["training.objective=grpo", "generations=3"]}
    run = ui.launch("__ASSET_JOB", [["branches"]], "whole_again", {"ops": {"branches": {"config": config}}})
    assert ui.wait(run) == "SUCCESS", failures(ui, run)
    write_tiny(ui.root.parent, name="newcomer")
    yaml_of(ui, "spoilt").write_text("name: [1\n")
    reload = """mutation { reloadRepositoryLocation(repositoryLocationName: "assets.definitions") {
                ... on WorkspaceLocationEntry { loadStatus } ... on PythonError { message } } }"""
    ui.query(reload)
    nodes = ui.query("{ assetNodes { assetKey { path } description } }")["assetNodes"]
    described = {"/".join(node["assetKey"]["path"]): node["description"] or "" for node in nodes}
    assert {"newcomer/rollouts", "whole/rollouts", "whole_again/rollouts"} <= set(described)
    query = """{ assetNodeOrError(assetKey: {path: ["whole_again", "trained_policy"]}) { ... on AssetNode {
               partitionKeys } } }"""
    assert ui.query(query)["assetNodeOrError"]["partitionKeys"] == ["0001", "0002"]
    assert "not readable YAML" in described["broken_experiments/spoilt"]
