"""Start a job's processes: none for one process on this machine, else torchrun, or DeepSpeed's launcher for several."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from types import FrameType

from pipeline.errors import TbrmError
from pipeline.threads import thread_settings

ERROR_FILE = "error.txt"
_GRACE_S = 60.0


def command_line(processes: int, hostfile: str | None, job_file: Path) -> list[str]:
    """The launcher's command for a job of several processes."""
    if hostfile is None:
        here = ["--standalone", f"--nproc-per-node={processes}"]
        return [sys.executable, "-m", "trainer.torchrun", str(job_file), *here, "-m", "trainer.worker", str(job_file)]
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={hostfile}", f"--num_gpus={processes}"),
        *("--module", "trainer.rank", str(job_file)),
    ]


def run_processes(processes: int, hostfile: str | None, job_file: Path) -> None:
    """Run `trainer.worker` in `processes` processes on each machine and wait.

    SIGTERM and SIGINT are passed on, so that the workers can write a checkpoint first. Raises TbrmError with the first
    worker's message when the job fails.
    """
    if hostfile is not None and not Path(hostfile).is_file():
        raise TbrmError(f"training.hostfile: there is no file {hostfile}")
    error_file = job_file.with_name(ERROR_FILE)
    error_file.unlink(missing_ok=True)
    environment = os.environ | thread_settings(processes) | {"PYTHONWARNINGS": "ignore::FutureWarning"}
    child = subprocess.Popen(command_line(processes, hostfile, job_file), env=environment)
    try:
        with _passing_signals_on(child):
            code = child.wait()
    finally:
        _end(child)
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


@contextlib.contextmanager
def _passing_signals_on(child: subprocess.Popen[bytes]) -> Generator[None]:
    """Python only handles signals in the main thread; elsewhere the process group's owner has to do it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
