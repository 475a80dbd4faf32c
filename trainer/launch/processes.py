"""Start the processes of a job that has several: torchrun on this machine, or one torchrun agent on each machine."""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError, needing
from pipeline.run.threads import thread_settings
from trainer.job import ERROR_FILE

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that ask for a checkpoint and an end. SIGUSR1 is for Slurm, whose SIGTERM ends `srun` in the job as well."""
_OF_THE_STEP = (
    *("SLURM_STEP", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NNODES", "SLURM_TASKS_PER_NODE", "SLURM_CPU_BIND"),
    *("SLURM_MEM_BIND", "SLURM_DISTRIBUTION", "SLURM_LAUNCH", "SLURM_SRUN", "SLURM_PROCID", "SLURM_LOCALID"),
)
"""Prefixes of the variables by which Slurm describes the step that the stage runs in. `srun` would take them for
options of the step that it starts."""


def command_line(training: TrainingConfig, job_file: Path) -> list[str]:
    """The command that starts the job's processes on this machine, or on the nodes of this Slurm job."""
    if training.machines == 1:
        return [*_agent(job_file), "--standalone", *_work(training, job_file)]
    options = _meeting(training, job_file, f"{socket.gethostname()}:{_free_port()}")
    srun = [*_on_each(training.machines), "--unbuffered", "--cpu-bind=none", "--kill-on-bad-exit=1"]
    return [*srun, *_agent(job_file), *options]


def _agent(job_file: Path) -> list[str]:
    return [sys.executable, "-m", "trainer.launch.torchrun", str(job_file)]


def _work(training: TrainingConfig, job_file: Path) -> list[str]:
    return [f"--nproc-per-node={training.processes}", "-m", "trainer.loop.worker", str(job_file)]


def _meeting(training: TrainingConfig, job_file: Path, address: str) -> list[str]:
    """Options of agents that meet at `address`, where the first of them listens, and work."""
    together = ["--rdzv-backend=c10d", f"--rdzv-endpoint={address}", f"--rdzv-id={uuid.uuid4().hex[:12]}"]
    return [f"--nnodes={training.machines}", *together, *_work(training, job_file)]


def run_processes(training: TrainingConfig, job_file: Path) -> None:
    """Run `trainer.loop.worker` in `training.processes` processes on each machine and wait.

    SIGTERM, SIGINT and SIGUSR1 are passed on, so that the workers can write a checkpoint first. Raises TbrmError with
    the first worker's message when the job fails, and where several machines cannot be had or do not see the job.
    """
    error_file = job_file.with_name(ERROR_FILE)
    error_file.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_STEP)}
    environment |= thread_settings(training.processes) | {"PYTHONWARNINGS": "ignore::FutureWarning"}
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(max(1, round(training.stop_grace_s)))
    by_ray = training.machines > 1 and training.machines_by == "ray"
    code = (_run_on_ray if by_ray else _run)(training, job_file, environment)
    if code == 0:
        return
    if error_file.exists():
        raise TbrmError(error_file.read_text(encoding="utf-8"))
    if code < 0:
        name = signal.Signals(-code).name
        raise TbrmError(
            f"the launcher of the training processes was ended by signal {-code} ({name}); run the stage again to go "
            "on from the last checkpoint"
        )
    raise TbrmError(f"the training processes ended with exit code {code}; the first traceback above says why")


def _run(training: TrainingConfig, job_file: Path, environment: Mapping[str, str]) -> int:
    """Exit code of the launcher: torchrun, or `srun` with one torchrun on each machine."""
    if training.machines > 1:
        _check_slurm(training.machines, environment)
        look = [*_on_each(training.machines), "sha256sum", str(job_file)]
        told = subprocess.run(look, env=environment, stdout=subprocess.PIPE, text=True, check=False).stdout
        _check_shared(training.machines, job_file, [line.split()[0] for line in told.splitlines() if line])
    child = subprocess.Popen(command_line(training, job_file), env=environment)
    try:
        # At SIGTERM `srun` would kill the agents; SIGUSR1 it hands to them.
        with _passing_signals_on(child, always=signal.SIGUSR1 if training.machines > 1 else None):
            return child.wait()
    finally:
        _end(child, training.stop_grace_s)


def _run_on_ray(training: TrainingConfig, job_file: Path, environment: Mapping[str, str]) -> int:
    """Exit code of the first agent that failed, else 0."""
    with needing("ray", "training.machines_by: ray"):
        from trainer.launch.ray_agents import RayAgents
    agents = RayAgents(training.machines, training.processes)
    try:
        _check_shared(training.machines, job_file, agents.digests(job_file))
        agents.start(_agent(job_file), _meeting(training, job_file, agents.meeting()), environment)
        with _passing_signals_on(agents):
            return agents.wait()
    finally:
        agents.close()


def _check_slurm(machines: int, environment: Mapping[str, str]) -> None:
    there = int(environment.get("SLURM_JOB_NUM_NODES", "0")) if "SLURM_JOB_ID" in environment else 0
    if there < machines:
        where = f"this Slurm job has {there} nodes" if there else "this is no Slurm job"
        raise TbrmError(
            f"training.machines: {machines}, and {where}: `srun` starts the agents from within a job. Name the stage "
            "in `launch: {by: slurm, stages: {trained_policy: […]}}`, or start it in `salloc` or `sbatch` with "
            f"`--nodes={machines}`, or set training.machines_by: ray (docs/cluster.md)"
        )


def _check_shared(machines: int, job_file: Path, digests: Sequence[str]) -> None:
    """Raise TbrmError unless every machine reads this very job file: they must share the file system."""
    own = hashlib.sha256(job_file.read_bytes()).hexdigest()
    seen = list(digests).count(own)
    if seen < machines:
        raise TbrmError(
            f"{seen} of {machines} machines see the job in {job_file.parent}: a training on several needs a file "
            "system that they share. Put the store there (--root); with an object store, which is mirrored in this "
            "user's cache, set XDG_CACHE_HOME to a shared folder for the stage"
        )


def _on_each(machines: int) -> list[str]:
    """Start of a command line: a step of the Slurm job with one task on each machine, beside the step of the stage."""
    return ["srun", f"--nodes={machines}", f"--ntasks={machines}", "--ntasks-per-node=1", "--overlap"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


class _Signalled(Protocol):
    def send_signal(self, sig: int, /) -> None: ...


@contextlib.contextmanager
def _passing_signals_on(child: _Signalled, always: int | None = None) -> Generator[None]:
    """Send the child each signal of STOPPING that arrives here, or `always` in its place.

    Python handles signals in the main thread only. In another thread nothing is passed on; whoever owns the process
    group then has to signal the child.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number if always is None else always)

    before = {number: signal.signal(number, pass_on) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(child: subprocess.Popen[bytes], grace_s: float) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
