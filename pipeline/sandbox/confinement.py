"""A process gives up what it can do, in the order that works; what is in force in the end is reported."""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import TbrmError
from pipeline.run.threads import thread_settings
from pipeline.sandbox import files, filters, kernel

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Set to 1: there is one confined process for each core. Its environment holds nothing but how threads behave."""
LARGEST_FILE = 64 * 2**20
"""Bytes of a file that a confined process may write."""
MOST_FILES = 256
MOST_PROCESSES = 128


@dataclass(frozen=True)
class Protections:
    """What keeps a confined process apart: a word on each layer in force, empty where the machine does not have it."""

    environment: str = ""
    privileges: str = ""
    namespaces: str = ""
    mounts: str = ""
    landlock: str = ""
    seccomp: str = ""

    @property
    def no_network(self) -> bool:
        return bool(self.namespaces or self.seccomp)

    @property
    def no_writing(self) -> bool:
        return bool(self.landlock or self.mounts)

    @property
    def others_out_of_reach(self) -> bool:
        """Whether this process cannot send signals to processes outside."""
        return bool(self.namespaces) or self._landlock_version >= files.SIGNALS_FROM_ABI

    @property
    def _landlock_version(self) -> int:
        return int(self.landlock.rpartition(" ")[2] or 0)

    def missing(self) -> list[str]:
        """What a confined process could do here that it should not, in words. Empty: nothing."""
        gaps = {
            "reach the network": not self.no_network,
            "write files that the user may write": not self.no_writing,
            "send signals to other processes of the user": not (self.others_out_of_reach or self.seccomp),
            "leave a process behind": not (self.namespaces or self.seccomp),
            "read the memory of other processes of the user": not (self.landlock or self.seccomp),
            "gain privileges": not self.privileges,
        }
        return [what for what, gap in gaps.items() if gap]

    def describe(self) -> str:
        """One line: the layers in force."""
        return "; ".join(f"{layer}: {value or 'not available'}" for layer, value in asdict(self).items())


def confine_worker(scratch: str, writable: Sequence[str] = ()) -> Protections:
    """Confine this process, which must have one thread, and all it starts, for good.

    Its environment is emptied; standard input and output go nowhere; it can write below `scratch` (which becomes its
    working directory) and `writable` only, and reaches no network. Each layer is taken where the machine offers it.
    """
    os.chdir(scratch)
    landlock_version = prepare()
    _silence()
    _empty_environment()
    if not kernel.on_linux():
        return Protections(environment="empty")
    folders = (scratch, *writable)
    namespaces = mounts = ""
    try:
        namespaces = kernel.new_namespaces()
        kernel.make_read_only(folders)
        mounts = "read-only"
        os.chdir(scratch)  # the mount that can be written, no longer the one below it
    except OSError:
        pass  # forbidden here, or the kernel is older than the call
    kernel.gain_no_privileges()
    kernel.drop_capabilities()
    landlock = _landlock(folders, landlock_version)
    seccomp = _seccomp()
    kernel.refuse_inspection()
    kernel.die_with_parent()
    return Protections("empty", "no new ones, no capabilities", namespaces, mounts, landlock, seccomp)


def prepare() -> int:
    """Load the libraries, which start a program to find the C library; later there may be none. Landlock's version."""
    import landlockpy
    import seccompy

    if not kernel.on_linux():
        return 0
    seccompy.supported()
    try:
        return landlockpy.abi_version()
    except OSError:
        return 0


def confine_child(in_force: Protections, scratch: str, readable: Sequence[str] | None, children: bool) -> None:
    """Confine further a process that a confined worker started: the worker and its siblings are out of its reach.

    `readable` are the only folders it may read, None for all. Without `children` it can start no process; with them,
    they all stay in its process group.
    """
    if not kernel.on_linux():
        return
    kernel.die_with_parent()
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_FILES, MOST_FILES))
    if in_force.namespaces.startswith("user"):  # elsewhere all processes of the user would count
        resource.setrlimit(resource.RLIMIT_NPROC, (MOST_PROCESSES, MOST_PROCESSES))
    if in_force.landlock:
        if readable is None:
            files.apart_from_the_parent()
        else:
            files.read_only_below(readable, scratch)
    if in_force.seccomp:
        if children:
            filters.forbid_leaving_the_group(in_force.others_out_of_reach)
        else:
            filters.forbid_processes()


def folders_of_python() -> list[str]:
    """Folders that an import may read: the interpreter's, the packages', and the system's libraries."""
    system = (
        "/usr",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/sys/devices/system/cpu",
        "/proc/cpuinfo",
    )
    paths = [path for path in sys.path if path]
    return list(dict.fromkeys([sys.prefix, sys.base_prefix, *paths, *system]))


def protections_here() -> Protections:
    """The protections that this machine offers, found by trying them in a process of its own. Raises TbrmError when
    that process cannot be started."""
    with tempfile.TemporaryDirectory(prefix="tbrm-sandbox-") as scratch:
        command = [sys.executable, "-m", "pipeline.sandbox.confinement", scratch]
        path = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": path})
    if done.returncode:
        raise TbrmError(f"a confined process cannot be started here: {done.stderr[-500:]}")
    return Protections(**json.loads(done.stdout))


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)


def _empty_environment() -> None:
    os.environ.clear()
    os.environ.update(thread_settings(cores=1, given={}) | dict.fromkeys(THREADS, "1"))


def _landlock(folders: Sequence[str], version: int) -> str:
    if not version:
        return ""
    files.write_only_below(folders)
    return f"version {version}"


def _seccomp() -> str:
    try:
        filters.forbid_reaching_out()
        filters.compile_filters()
    except (OSError, RuntimeError):
        return ""
    return "filter"


if __name__ == "__main__":
    output = os.dup(1)
    found = confine_worker(str(Path(sys.argv[1]).resolve()))
    os.write(output, json.dumps(asdict(found)).encode())
