"""What is ended from outside gets its time: a training saves, a job of a cluster is asked before it is cancelled."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance

from assets.definitions import build_definitions
from assets.experiment.source import read_experiments
from assets.graph.step import StoreLocation
from assets.processes import cluster_job
from assets.processes.launcher import Ended, LocalLauncher, Process, follow
from tests.support.tiny import write_tiny

SAVES = "trap 'sleep 0.5; echo saved; exit 3' TERM; echo ready; while true; do sleep 0.05; done"


class _Stopped(Exception):
    """Raised as Dagster raises its interrupt: in the middle of waiting."""


@pytest.fixture
def stop_when(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Raises `_Stopped` in the main thread as soon as `text` stands in the file."""

    def arm(file: Path, text: str) -> None:
        def look(_number: int, _frame: object) -> None:
            if file.exists() and text in file.read_text():
                signal.setitimer(signal.ITIMER_REAL, 0)
                raise _Stopped

        signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)

    before = signal.getsignal(signal.SIGALRM)
    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_stage_gets_the_time_it_needs_and_the_run_is_told(tmp_path: Path, stop_when: Any) -> None:
    log, said = tmp_path / "log", list[str]()
    stop_when(log, "ready")
    with pytest.raises(_Stopped):
        LocalLauncher(grace_s=0.1).run(Process(["sh", "-c", SAVES], log, grace_s=20, say=said.append))
    assert log.read_text().endswith("saved\n")
    assert said == ["the stage is being ended: it has up to 20 s to end its work and save what it has"]


def test_only_the_follower_of_a_job_is_told_to_end(tmp_path: Path, stop_when: Any) -> None:
    """`srun` would kill the job at once if it got the signal too."""
    log = tmp_path / "log"
    inner = (
        "import subprocess; subprocess.run(['sh', '-c', \"trap 'echo inner' TERM; echo ready; sleep 1 & wait; wait\"])"
    )
    outer = f"import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('outer', flush=True))\n{inner}"
    stop_when(log, "ready")
    with pytest.raises(_Stopped):
        follow(Process([sys.executable, "-S", "-c", outer], log), os.environ, 20, child_first=True)
    assert "outer" in log.read_text()
    assert "inner" not in log.read_text()


@pytest.mark.parametrize(("seconds", "cancelled"), [("30", False), ("0.3", True)])
def test_a_job_is_asked_to_save_before_it_is_cancelled(tmp_path: Path, seconds: str, cancelled: bool) -> None:
    ready, asked, cancel = (tmp_path / name for name in ("ready", "asked", "cancelled"))
    ending = {"ask": [["touch", str(asked)]], "cancel": ["touch", str(cancel)], "grace_s": float(seconds)}
    work = f"touch {ready}; while [ ! -e {asked} ]; do sleep 0.05; done; sleep {'0' if not cancelled else '60'}"
    command = [sys.executable, "-I", "-S", cluster_job.__file__, json.dumps(ending), "sh", "-c", work]
    process = subprocess.Popen(command)
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert asked.exists()
    assert cancel.exists() == cancelled


class Recorder(LocalLauncher):
    """Notes how long each stage gets."""

    file: str

    def run(self, process: Process) -> Ended:
        with Path(self.file).open("a") as file:
            file.write(f"{process.command[3]} {process.grace_s:g}\n")
        return Ended(1, (), Path(self.file))


def test_stages_that_train_get_the_time_of_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    sources, _ = read_experiments(tmp_path / "experiments")
    recorder = Recorder(file=str(tmp_path / "graces"))
    definitions = build_definitions(sources, store=StoreLocation(root=str(tmp_path / "data")), launcher=recorder)
    for job, stage, partition in (("tiny_base_policy", "base_policy", None), ("tiny_generation", "rewards", "0000")):
        with DagsterInstance.ephemeral() as instance:
            definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                partition_key=partition,
                raise_on_error=False,
                asset_selection=[AssetKey(["tiny", stage])],
            )
    assert (tmp_path / "graces").read_text().splitlines() == ["base-policy 300", "rewards 0"]
