"""Training on two nodes of a Slurm job: one torchrun agent each, the same numbers as one process, an orderly end."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.store import open_store
from tests.services.cluster.test_launched_stages import wait_until
from tests.support.tiny import finish, tbrm, write_tiny
from tests.unit.trainer.jobs import job_of, mix, policy_folder
from trainer.job import METRICS_FILE, TrainJob, read_metrics
from trainer.loop.worker import train_policy

pytestmark = pytest.mark.xdist_group("cluster")

TRAIN = """
import sys
from pathlib import Path
from pipeline.errors import TbrmError
from trainer.job import TrainJob
from trainer.loop.worker import train_policy
try:
    print("trained", train_policy(TrainJob.load(Path(sys.argv[1]))).resumed_from)
except TbrmError as error:
    sys.exit(f"error: {error}")
"""
ALLOCATION = ["salloc", "--nodes=2", "--no-bell", "srun", "--nodes=1", "--ntasks=1", "--unbuffered"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_folder(tmp_path_factory.mktemp("policies") / "zero")


@pytest.fixture(scope="module")
def table(policy: Path) -> pa.Table:
    return mix(policy, reference=policy)


@pytest.fixture
def make_job(policy: Path, table: pa.Table, tmp_path: Path) -> Callable[..., TrainJob]:
    return lambda name="job", **options: job_of(table, policy, tmp_path / name, **options)


def start(
    job: TrainJob, conf: str, within: Sequence[str] = ALLOCATION, more: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    env = {**os.environ, "SLURM_CONF": conf, "OMP_NUM_THREADS": "1", **(more or {})}
    command = [*within, sys.executable, "-c", TRAIN, str(job.save())]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def check_two(job: TrainJob, alone: TrainJob, running: subprocess.Popen[str], stop: Callable[[], object]) -> None:
    """Two machines give the losses of one process, and told to end they save first."""
    metrics = job.state / METRICS_FILE
    wait_until(lambda: running.poll() is not None or len(read_metrics(metrics)) >= 2, 180)
    assert running.poll() is None, running.communicate()[0]
    stop()
    expected = train_policy(alone).metrics
    output, _ = running.communicate(timeout=240)
    assert "was stopped after update" in output, output
    assert [row["loss"] for row in read_metrics(metrics)[:2]] == pytest.approx([r["loss"] for r in expected], rel=1e-5)
    (checkpoint,) = job.state.glob("update-*")
    assert json.loads((checkpoint / "checkpoint.json").read_text())["world_size"] == 2


def test_two_nodes_of_a_slurm_job(make_job: Callable[..., TrainJob], slurm_conf: str) -> None:
    job = make_job("together", updates=10_000, checkpoint_every=10_000, machines=2)
    running = start(job, slurm_conf, [*ALLOCATION[:1], "--job-name=to-be-stopped", *ALLOCATION[1:]])
    env = {**os.environ, "SLURM_CONF": slurm_conf}
    cancel = ["scancel", "--name=to-be-stopped", "--signal=USR1"]
    check_two(job, make_job("alone"), running, lambda: subprocess.run(cancel, env=env, check=True))


def test_two_nodes_of_a_ray_cluster(make_job: Callable[..., TrainJob], ray_cluster: Any) -> None:
    ray_cluster.add_node(num_cpus=1)
    job = make_job("together", updates=10_000, checkpoint_every=10_000, machines=2, machines_by="ray")
    running = start(job, "", [], {"RAY_ADDRESS": ray_cluster.address})
    check_two(job, make_job("alone"), running, running.terminate)


HIDE = """#!/bin/sh
if [ "$SLURMD_NODENAME" = two ]; then
  exec unshare -m sh -c 'mount -t tmpfs none "$0" && exec "$@"' {state} "$@"
fi
exec "$@"
"""
SRUN = """#!/bin/sh
options=""
while [ "${{1#-}}" != "$1" ]; do options="$options $1"; shift; done
exec {srun} $options {hide} "$@"
"""


def test_a_machine_that_does_not_see_the_job(
    make_job: Callable[..., TrainJob], slurm_conf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a cache that each machine has for itself: the second node sees an empty folder in the job's place."""
    job, srun = make_job("unseen", updates=1, machines=2), str(shutil.which("srun"))
    within = [srun if word == "srun" else word for word in ALLOCATION]
    scripts = {"hide": HIDE.format(state=job.state), "srun": SRUN.format(srun=srun, hide=tmp_path / "hide")}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    running = start(job, slurm_conf, within)
    output, _ = running.communicate(timeout=400)
    assert running.returncode != 0
    assert f"1 of 2 machines see the job in {job.state}" in output, output
    assert "set XDG_CACHE_HOME to a shared folder" in output


FOLLOWER = """
import sys
from pathlib import Path
from dagster_pipes import encode_param
from assets.processes.cluster import SlurmLauncher
from assets.processes.launcher import Process

env = {"DAGSTER_PIPES_MESSAGES": encode_param({"path": "messages"})}
work = "import pathlib, signal, sys, time; save = lambda *_: (pathlib.Path('saved').touch(), sys.exit()); "
work += "signal.signal(signal.SIGUSR1, save); print('begun', flush=True); time.sleep(600)"
SlurmLauncher(machines=int(sys.argv[1])).run(
    Process([sys.executable, "-c", work], Path("log"), env, grace_s=30)
)
"""


@pytest.mark.parametrize("machines", [1, 2])
def test_whoever_launched_it_is_killed_and_it_still_saves(
    tmp_path: Path, slurm_conf: str, monkeypatch: pytest.MonkeyPatch, machines: int
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm_conf)
    follower = subprocess.Popen([sys.executable, "-c", FOLLOWER, str(machines)], cwd=tmp_path)
    log, saved = tmp_path / "log", tmp_path / "saved"
    wait_until(lambda: log.exists() and "begun" in log.read_text(), 60)
    follower.kill()
    follower.wait()
    wait_until(saved.exists, 40)
    wait_until(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout, 20)


def test_a_stage_is_launched_on_several_machines(
    tmp_path: Path, slurm_conf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm_conf)
    path = write_tiny(tmp_path, generations=1)
    launch = {"by": "slurm", "stages": {"trained_policy": ["--time=10"]}}
    path.write_text(f"{path.read_text()}launch: {json.dumps(launch)}\n")
    finish(tbrm(tmp_path, "run", "tiny", "--set", "training.machines=2", "--set", "policy.warm_start=null"))
    store = open_store(str(tmp_path / "data"))
    state = tmp_path / "data" / "tiny" / "training_state" / "generation=0000"
    (checkpoint,) = state.glob("*/update-*")
    assert json.loads((checkpoint / "checkpoint.json").read_text())["world_size"] == 2
    assert store.fs.exists(store.join("tiny", "policy", "generation=0001", "policy.json"))
