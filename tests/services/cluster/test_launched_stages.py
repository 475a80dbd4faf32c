"""Stages as jobs of Slurm and of Ray's job server: they run, report, fail in their own words, and never outlive us."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import open_store
from tests.support.tiny import finish, tbrm, write_tiny

pytestmark = pytest.mark.xdist_group("cluster")

FOLLOWER = """
import sys
from pathlib import Path
from dagster_pipes import encode_param
from assets.processes.cluster import RayJobLauncher, SlurmLauncher
from assets.processes.launcher import Process

launcher = SlurmLauncher() if sys.argv[1] == "slurm" else RayJobLauncher(address=sys.argv[2])
env = {"DAGSTER_PIPES_MESSAGES": encode_param({"path": "messages"})}
work = "import time; print('begun', flush=True); time.sleep(600)"
launcher.run(Process([sys.executable, "-c", work, "tbrm-long-job"], Path("log"), env))
"""


@pytest.fixture(params=["slurm", "ray_job"])
def scheduler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Its name in YAML, and its address."""
    if request.param == "slurm":
        monkeypatch.setenv("SLURM_CONF", request.getfixturevalue("slurm_conf"))
        return "slurm", ""
    return "ray_job", f"http://{request.getfixturevalue('ray_cluster').head_node.webui_url}"


def launch_in(folder: Path, by: str, address: str, stages: dict[str, list[str]]) -> None:
    path = write_tiny(folder, generations=1)
    launch = {"by": by, "stages": stages} | ({"address": address} if address else {})
    path.write_text(f"{path.read_text()}launch: {json.dumps(launch)}\n")


def test_a_stage_runs_as_a_job(tmp_path: Path, scheduler: tuple[str, str]) -> None:
    options = ["--entrypoint-num-cpus=1"] if scheduler[0] == "ray_job" else ["--cpus-per-task=2"]
    launch_in(tmp_path, *scheduler, {"rollouts": options})
    output = finish(tbrm(tmp_path, "run", "tiny"))
    assert "rollouts[0]: 32/32 trajectories" in output, "its progress is followed from here"
    assert "__dagster_pipes_version" not in output
    assert open_store(str(tmp_path / "data")).partition("tiny", "rollouts", 0).manifest().rows == 32
    logs = list((tmp_path / "data" / "dagster_home").rglob("tiny__rollouts.0.log"))
    assert len(logs) == 1
    assert "Traceback" not in logs[0].read_text()


def test_options_the_scheduler_refuses(tmp_path: Path, scheduler: tuple[str, str]) -> None:
    launch_in(tmp_path, *scheduler, {"base_policy": ["--no-such-option"]})
    run = tbrm(tmp_path, "run", "tiny")
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 1
    assert "no-such-option" in output


def test_a_job_ends_with_who_follows_it(tmp_path: Path, scheduler: tuple[str, str]) -> None:
    follower = subprocess.Popen([sys.executable, "-c", FOLLOWER, *scheduler], cwd=tmp_path, env=os.environ)
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and "begun" in log.read_text(), 60)
    assert running()
    os.kill(follower.pid, signal.SIGKILL)
    follower.wait()
    wait_until(lambda: not running(), 40)


def running() -> list[Any]:
    """Processes of the job itself: whoever runs its command line, not who carries it as an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:2] == [b"-c"] and b"tbrm-long-job" in words:
            found.append(path)
    return found


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
