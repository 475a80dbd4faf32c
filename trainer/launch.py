"""Start a job's processes: none for one process on this machine, else torchrun, on several machines one agent each."""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Generator, Mapping
from pathlib import Path
from types import FrameType

from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.threads import thread_settings

ERROR_FILE = "error.txt"
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that ask for a checkpoint and an end. SIGUSR1 is for Slurm, whose SIGTERM ends `srun` in the job as well."""
_OF_THE_STEP = (
    *("SLURM_STEP", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NNODES", "SLURM_TASKS_PER_NODE", "SLURM_CPU_BIND"),
    *("SLURM_MEM_BIND", "SLURM_DISTRIBUTION", "SLURM_LAUNCH", "SLURM_SRUN", "SLURM_PROCID", "SLURM_LOCALID"),
)
"""Starts of the variables by which Slurm describes the stage's own step; a step that is started from it would take
them for wishes of its own."""


def command_line(training: TrainingConfig, job_file: Path) -> list[str]:
    """The launcher's command for a job of several processes."""
    agent = [sys.executable, "-m", "trainer.torchrun", str(job_file)]
    here, work = f"--nproc-per-node={training.processes}", ["-m", "trainer.worker", str(job_file)]
    if training.machines == 1:
        return [*agent, "--standalone", here, *work]
    meeting = (f"--rdzv-endpoint={socket.gethostname()}:{_free_port()}", f"--rdzv-id={uuid.uuid4().hex[:12]}")
    agents = [*_on_each(training.machines), "--unbuffered", "--cpu-bind=none", "--kill-on-bad-exit=1", *agent]
    return [*agents, f"--nnodes={training.machines}", here, "--rdzv-backend=c10d", *meeting, *work]


def run_processes(training: TrainingConfig, job_file: Path) -> None:
    """Run `trainer.worker` in `training.processes` processes on each machine and wait.

    SIGTERM, SIGINT and SIGUSR1 are passed on, so that the workers can write a checkpoint first. Raises TbrmError with
    the first worker's message when the job fails, and where this is no Slurm job of enough machines.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_STEP)}
    if training.machines > 1:
        _check_slurm(training.machines, environment)
        _check_shared(training.machines, environment, job_file)
    error_file = job_file.with_name(ERROR_FILE)
    error_file.unlink(missing_ok=True)
    ours = thread_settings(training.processes) | {"PYTHONWARNINGS": "ignore::FutureWarning"}
    ours["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(max(1, round(training.stop_grace_s)))
    child = subprocess.Popen(command_line(training, job_file), env=environment | ours)
    try:
        with _passing_signals_on(child, several_machines=training.machines > 1):
            code = child.wait()
    finally:
        _end(child, training.stop_grace_s)
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


def _check_slurm(machines: int, environment: Mapping[str, str]) -> None:
    there = int(environment.get("SLURM_JOB_NUM_NODES", "0")) if "SLURM_JOB_ID" in environment else 0
    if there < machines:
        where = f"this Slurm job has {there} nodes" if there else "this is no Slurm job"
        raise TbrmError(
            f"training.machines: {machines}, and {where}: `srun` starts the agents from within a job. Name the stage "
            "in `launch: {by: slurm, stages: {trained_policy: […]}}`, or start it in `salloc` or `sbatch` with "
            f"`--nodes={machines}` (docs/cluster.md)"
        )


def _check_shared(machines: int, environment: Mapping[str, str], job_file: Path) -> None:
    """Every machine must read this very job: in a folder of its own there may be nothing, or another job."""
    digest = hashlib.sha256(job_file.read_bytes()).hexdigest()
    look = [*_on_each(machines), "sha256sum", str(job_file)]
    told = subprocess.run(look, env=environment, stdout=subprocess.PIPE, text=True, check=False).stdout
    seen = sum(line.startswith(digest) for line in told.splitlines())
    if seen < machines:
        raise TbrmError(
            f"{seen} of {machines} machines see the job in {job_file.parent}: a training on several needs a file "
            "system that they share. Put the store there (--root); with an object store, which is mirrored in this "
            "user's cache, set XDG_CACHE_HOME to a shared folder for the stage"
        )


def _on_each(machines: int) -> list[str]:
    """A step of the job with one task on each machine, beside the step of the stage."""
    return ["srun", f"--nodes={machines}", f"--ntasks={machines}", "--ntasks-per-node=1", "--overlap"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _passing_signals_on(child: subprocess.Popen[bytes], several_machines: bool) -> Generator[None]:
    """Python only handles signals in the main thread; elsewhere the process group's owner has to do it.

    To `srun` every signal goes as SIGUSR1, which it hands to the agents: at SIGTERM it would kill them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(signal.SIGUSR1 if several_machines else number)

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
