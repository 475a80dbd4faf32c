"""What Dagster costs: from `tbrm ui` to a usable page, and a stage's seconds beyond its own work.

    python -m benchmarks.orchestration --out benchmarks/results/orchestration.json

A stage's overhead is the time of its Dagster step less the seconds that the stage itself reports: the process tree
started and ended, its imports before the work, Pipes, events, asset checks and metadata. What a stage loads lazily for
its own work (torch, the policy) belongs to the stage. A run's start is the time from the click to its first step.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dagster import DagsterEventType, DagsterInstance

from assets.app.instance import open_instance
from assets.graph.step import ALL_NUMBERS
from assets.processes.supervisor import descendants
from pipeline.store import open_store
from tests.support.served_ui import Ui, served
from tests.support.tiny import write_tiny

STAGES = ("rollouts", "rewards", "ref_logprobs", "trained_policy")
BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tbrm-orchestration-") as folder:
        write_tiny(Path(folder), generations=given.generations)
        result = measured(Path(folder), given.starts, given.generations)
    machine = {"cores": os.cpu_count(), "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)]}
    text = json.dumps(machine | result, indent=2) + "\n"
    sys.stdout.write(text)
    if given.out:
        given.out.write_text(text)


def measured(folder: Path, starts: int, generations: int) -> dict[str, Any]:
    """Start the UI `starts` times; in the last one run `generations` generations of the tiny experiment."""
    graph_s: list[float] = []
    cpu_s: list[float] = []
    page_s: list[float] = []
    for number in range(starts):
        began = time.monotonic()
        with served(folder / "data", folder) as ui:
            assert ui.query("{ assetNodes { id } }")["assetNodes"]
            graph_s.append(time.monotonic() - began)
            cpu_s.append(cpu_seconds(ui.process.pid))
            page_s += [time.monotonic() - began] if _page_is_usable(ui) else []
            if number == starts - 1:
                _run(ui, generations)
    with open_instance(open_store(str(folder / "data"))) as instance:
        overheads, begins = _overheads(instance)
    return {
        "start_to_graphql_graph_seconds": _spread(graph_s),
        "start_to_graphql_graphcpu_seconds": _spread(cpu_s),
        "start_to_graph_in_the_browser_seconds": _spread(page_s),
        "stage_overhead_seconds": {stage: _spread(values) for stage, values in sorted(overheads.items())},
        "stage_overhead_seconds_all": _spread([value for values in overheads.values() for value in values]),
        "run_start_seconds": _spread(begins),
    }


def cpu_seconds(root: int) -> float:
    """CPU time that a process tree has used: what a busy machine changes little. Ended children are counted too."""
    ticks = 0
    for pid in (root, *descendants(root)):
        with contextlib.suppress(OSError):
            # After the name: state ppid ... utime stime cutime cstime are fields 14 to 17 of proc(5).
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _page_is_usable(ui: Ui) -> bool:
    """Wait until Chromium shows the experiment's graph; False where there is no browser."""
    executable = shutil.which("chromium")
    if executable is None:
        return False
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=BROWSER_FLAGS)
        page = browser.new_page()
        page.goto(ui.link)
        page.wait_for_url(lambda url: "token=" not in url)
        page.goto(f"{ui.url}/locations/assets.definitions/asset-groups/tiny")
        page.get_by_text("trained_policy").first.wait_for(timeout=60_000)
        browser.close()
    return True


def _run(ui: Ui, generations: int) -> None:
    run = ui.launch("tiny_base_policy", [["tiny", "base_policy"]], None)
    assert ui.wait(run, 300) == "SUCCESS", ui.messages(run)
    for generation in range(generations):
        run = ui.launch("tiny_generation", [["tiny", stage] for stage in STAGES], f"{generation:04d}")
        assert ui.wait(run, 300) == "SUCCESS", ui.messages(run)


def _overheads(instance: DagsterInstance) -> tuple[dict[str, list[float]], list[float]]:
    """Overheads by stage, and the seconds from each run's creation to its first step."""
    overheads: dict[str, list[float]] = {}
    begins: list[float] = []
    for record in instance.get_run_records():
        began: dict[str, float] = {}
        own: dict[str, float] = {}
        for entry in instance.all_logs(record.dagster_run.run_id):
            event = entry.dagster_event
            step = event.step_key if event else None
            if event is None or step is None:
                continue
            if event.event_type == DagsterEventType.STEP_START:
                began[step] = entry.timestamp
            elif event.event_type == DagsterEventType.ASSET_MATERIALIZATION and event.asset_key:
                metadata = event.step_materialization_data.materialization.metadata
                if ALL_NUMBERS in metadata:
                    numbers: Any = metadata[ALL_NUMBERS].value
                    own[step] = float(numbers["seconds"])
            elif event.event_type == DagsterEventType.STEP_SUCCESS:
                stage = step.rpartition("__")[2]
                overheads.setdefault(stage, []).append(entry.timestamp - began[step] - own[step])
        begins.append(min(began.values()) - record.create_timestamp.timestamp())
    return overheads, begins


def _spread(values: Sequence[float]) -> dict[str, float | int] | None:
    """Median and extremes in seconds; None of nothing."""
    if not values:
        return None
    return {
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
        "count": len(values),
    }


if __name__ == "__main__":
    main()
