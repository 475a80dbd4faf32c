"""Two experiments at once, unattended: `tbrm ui` on Postgres, each driven by its sensor to its last generation.

    python -m benchmarks.unattended --generations 20 --out benchmarks/results/unattended.json

Nothing is touched after the first generation of each was asked for. What is looked for afterwards: every generation
trained and published, in order; no run failed or was retried; no lock error in any log; never two stages in the pool
of one slot; no process left.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dagster import AssetKey, AssetRecordsFilter, DagsterEventType, DagsterInstance

from assets.app.instance import POSTGRES_URL, open_instance
from assets.experiment.stages import GPU_POOL, ROLLOUTS, TRAINED_POLICY, stages_of
from assets.graph.step import ALL_NUMBERS
from pipeline.config import load_experiment
from pipeline.store import open_store
from tests.support.postgres_server import postgres_server
from tests.support.served_ui import LOCATION, Ui, served
from tests.support.tiny import write_tiny

NAMES = ("one", "two")
LOCK_WORDS = ("database is locked", "deadlock", "could not obtain lock", "lock timeout", "OperationalError")
_POLL_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with postgres_server() as url, tempfile.TemporaryDirectory(prefix="tbrm-unattended-") as folder:
        os.environ[POSTGRES_URL] = url
        result = unattended(Path(folder), given.generations)
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    if given.out:
        given.out.write_text(text)


def unattended(folder: Path, generations: int, timeout_s: float = 7200.0) -> dict[str, Any]:
    """Run both experiments in `folder` to their end with Dagster's history where the environment says; what was seen.

    Raises TimeoutError when they have not ended after `timeout_s` seconds.
    """
    for name in NAMES:
        write_tiny(folder, generations=generations, prompts=8, name=name)
    load = os.getloadavg()[0]
    started = time.monotonic()
    with served(folder / "data", folder) as ui:
        for name in NAMES:
            start(ui, name)
        _wait_for_the_end(ui, generations, time.monotonic() + timeout_s)
        seconds = time.monotonic() - started
    left = ui.stage_processes()
    with open_instance(open_store(str(folder / "data"))) as instance:
        experiment = load_experiment(str(folder / "experiments" / f"{NAMES[0]}.yaml"))
        pooled = {stage.name for stage in stages_of(experiment) if stage.pool == GPU_POOL}
        seen = _history(instance, pooled)
    logs = (folder / "ui.log").read_text(errors="replace")
    return {
        "what": "two experiments at once by their sensors, Dagster's history in Postgres, pool of one slot",
        "generations_each": generations,
        "seconds": round(seconds, 1),
        "cores": os.cpu_count(),
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
        "lock_errors_in_server_logs": sum(logs.count(word) for word in LOCK_WORDS),
        "processes_left": len(left),
        **seen,
    }


def start(ui: Ui, name: str) -> None:
    """Prepare policy[0], ask for generation 0, and switch the sensor on."""
    run = ui.launch(f"{name}_base_policy", [[name, "base_policy"]], None)
    assert ui.wait(run, 300) == "SUCCESS", ui.messages(run)
    switch = "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }"
    ui.query(switch, s=LOCATION | {"sensorName": f"{name}_publish"})
    stages = [[name, stage] for stage in ("rollouts", "rewards", "ref_logprobs", "trained_policy")]
    ui.launch(f"{name}_generation", stages, "0000")


def _wait_for_the_end(ui: Ui, generations: int, deadline: float) -> None:
    query = """query($a: AssetKeyInput!, $p: [String!]) { assetOrError(assetKey: $a) { ... on Asset {
               assetMaterializations(partitions: $p) { partition } } } }"""
    waiting = set(NAMES)
    while waiting:
        for name in tuple(waiting):
            found = ui.query(query, a={"path": [name, "policy"]}, p=[f"{generations:04d}"])["assetOrError"]
            if found.get("assetMaterializations"):
                waiting.remove(name)
        failed = [run for run in ui.runs() if run["status"] in ("FAILURE", "CANCELED")]
        assert not failed, [ui.messages(run["runId"])[-5:] for run in failed]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{sorted(waiting)} have not reached policy[{generations}]")
        time.sleep(_POLL_S)
    while any(run["status"] not in ("SUCCESS", "FAILURE", "CANCELED") for run in ui.runs()):
        time.sleep(_POLL_S)


def _history(instance: DagsterInstance, pooled: set[str]) -> dict[str, Any]:
    """Runs by status, order of the generations, retries, lock errors, overlap in the pool, overhead of the stages."""
    runs = instance.get_runs()
    statuses: dict[str, int] = {}
    spans: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    retries = lock_errors = 0
    for run in runs:
        statuses[run.status.value] = statuses.get(run.status.value, 0) + 1
        began: dict[str, float] = {}
        for entry in instance.all_logs(run.run_id):
            lock_errors += any(word in entry.user_message for word in LOCK_WORDS)
            event = entry.dagster_event
            step = event.step_key if event else None
            if event is None or step is None:
                continue
            retries += event.event_type == DagsterEventType.STEP_RESTARTED
            if event.event_type == DagsterEventType.STEP_START:
                began[step] = entry.timestamp
            elif event.event_type in (DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE):
                spans[step.rpartition("__")[2] in pooled].append((began[step], entry.timestamp))
    everything = spans[True] + spans[False]
    overheads = [
        o for name in NAMES for stage in (ROLLOUTS, TRAINED_POLICY) for o in _overheads(instance, name, stage.name)
    ]
    return {
        "runs": statuses,
        "steps": len(everything),
        "steps_restarted": retries,
        "lock_errors_in_run_logs": lock_errors,
        "most_steps_at_once": most_at_once(everything),
        "most_pooled_steps_at_once": most_at_once(spans[True]),
        "generations_in_order": {name: _in_order(instance, name) for name in NAMES},
        "claimed_slots_left": instance.event_log_storage.get_concurrency_info(GPU_POOL).active_slot_count,
        "stage_overhead_seconds_median": round(statistics.median(overheads), 2),
    }


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """Largest number of intervals (start, end) that share a moment."""
    changes = sorted([(end, -1) for _, end in spans] + [(start, 1) for start, _ in spans])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _in_order(instance: DagsterInstance, name: str) -> bool:
    wanted = AssetRecordsFilter(AssetKey([name, TRAINED_POLICY.name]))
    records = instance.fetch_materializations(wanted, limit=1000, ascending=True).records
    partitions = [record.partition_key for record in records]
    return partitions == [f"{generation:04d}" for generation in range(len(partitions))]


def _overheads(instance: DagsterInstance, name: str, stage: str) -> list[float]:
    records = instance.fetch_materializations(AssetRecordsFilter(AssetKey([name, stage])), limit=1000).records
    found = [record.asset_materialization for record in records if record.asset_materialization]
    numbers: list[Any] = [one.metadata[ALL_NUMBERS].value for one in found]
    return [float(one["overhead_seconds"]) for one in numbers]


if __name__ == "__main__":
    main()
