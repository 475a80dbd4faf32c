"""A study killed in the middle and started again: what was finished is kept, and the numbers are those of one go."""

import json
import os
import signal
import subprocess
import sys
import time
from glob import glob
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.tiny import write_tiny

STUDY = """
title: a very small study
claim: none
compare: one
reading: none
sizes:
  tiny:
    cost: seconds
    experiment: tiny
    seeds: 1
    set: {prompts: {per_generation: 8}}
    logs: {mini_log: {trajectories: 64, behaviour_accuracy: 0.9}}
    arms:
      - {name: one}
      - {name: two, set: {training: {objective: grpo}}}
      - {name: logged, set: {replay: {window: 0, logged: [{name: mini_log}]}}}
      - {name: logged too, set: {training: {beta: 0.1}, replay: {window: 0, logged: [{name: mini_log}]}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny(tmp_path)
    (tmp_path / "experiments" / "studies").mkdir()
    (tmp_path / "experiments" / "studies" / "mini.yaml").write_text(STUDY)
    return tmp_path


def study(folder: Path, root: str, workers: int) -> subprocess.Popen[bytes]:
    words = ["study", "mini", "--root", root, "--out", f"{root}_page", "--workers", str(workers), "--json"]
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE)


def numbers(folder: Path, root: str) -> list[Any]:
    """Rewards and KL of every run; the rest of its row is time."""
    arms = json.loads((folder / f"{root}_page" / "mini.json").read_text())["arms"]
    runs = [run for arm in arms for run in arm["runs"]]
    assert all(r["reward_by_source"] == {"arithmetic": r["reward"]} for run in runs for r in run["generations"])
    return [[(row["reward"], row["kl"]) for row in run["generations"]] for run in runs]


def _under_way(root: Path) -> bool:
    """Whether a run trains that has a predecessor with a result."""
    done = {path.stem for path in (root / "studies").glob("study_run_*.json")}
    # Not Path.glob: it fails where a folder goes while it looks, as that of a finished run does.
    found = glob("study_run_*/training_state/*/*", root_dir=root)  # noqa: PTH207
    return any(Path(path).parts[0] not in done for path in found)


def test_killed_and_started_again(folder: Path) -> None:
    killed = study(folder, "killed", 1)
    finished = folder / "killed" / "studies"
    deadline = time.monotonic() + 400
    while not (list(finished.glob("study_run_*.json")) and _under_way(folder / "killed")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    processes = psutil.Process(killed.pid).children(recursive=True)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
    kept = {path: path.stat().st_mtime_ns for path in finished.glob("study_run_*.json")}
    assert len(kept) == 1, "the run under way ended with its study"
    assert study(folder, "killed", 2).wait() == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished runs are not run again"
    document, _ = (whole := study(folder, "whole", 2)).communicate()
    assert whole.returncode == 0
    assert {Path(path).name for path in json.loads(document)["files"]} == {"mini.json", "mini.md", "mini.png"}
    assert numbers(folder, "killed") == numbers(folder, "whole")
