"""Slurm of one's own on this machine: munge, a controller and two nodes, for as long as a test needs them."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from tests.support.served_ui import free_port

_START_S = 30.0
_CONF = """
ClusterName=tbrm
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=2
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={first_port} CPUs=2 State=UNKNOWN
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={second_port} CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def why_no_slurm() -> str | None:
    """What is missing on this machine; None when a cluster can be started."""
    missing = [command for command in ("munged", "slurmctld", "slurmd", "srun") if shutil.which(command) is None]
    if missing:
        return f"no Slurm here: {', '.join(missing)} not on the path (as root: sh scripts/install-system.sh)"
    return None if os.getuid() == 0 else "slurmd has to be started by root"


@contextlib.contextmanager
def slurm_cluster() -> Generator[str]:
    """Path of its slurm.conf, for $SLURM_CONF."""
    # Not in pytest's folder: the path of a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="tbrm-slurm-") as name, contextlib.ExitStack() as daemons:
        folder, host = Path(name), socket.gethostname().partition(".")[0]
        ports = {name: free_port() for name in ("controller_port", "first_port", "second_port")}
        conf, key = folder / "slurm.conf", folder / "munge.key"
        conf.write_text(_CONF.format(folder=folder, host=host, **ports))
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"key-file": key, "socket": folder / "munge.socket", "seed-file": folder / "munge.seed"}
        files |= {"pid-file": folder / "munged.pid", "log-file": folder / "munged.log"}
        munge = ["munged", "--foreground", "--force", *(f"--{option}={path}" for option, path in files.items())]
        env = {**os.environ, "SLURM_CONF": str(conf)}
        nodes = (["slurmd", "-D", "-N", node] for node in ("one", "two"))
        for command in (munge, ["slurmctld", "-D"], *nodes):
            daemons.enter_context(_daemon(command, env))
        deadline = time.monotonic() + _START_S
        ready = ["sinfo", "-h", "-N", "-t", "idle", "-o", "%N"]
        while len(subprocess.run(ready, env=env, capture_output=True, text=True).stdout.split()) < 2:
            if time.monotonic() > deadline:
                logs = "".join(path.read_text() for path in folder.glob("*.log"))
                raise TimeoutError(f"Slurm has not started within {_START_S:.0f} s:\n{logs}")
            time.sleep(0.1)
        yield str(conf)


@contextlib.contextmanager
def _daemon(command: list[str], env: dict[str, str]) -> Generator[None]:
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
