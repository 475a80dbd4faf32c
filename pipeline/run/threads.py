"""How many threads a process computes with, and how they wait: for every process that the product starts.

OpenMP reads both from the environment when its library is loaded, with torch; so they are set before torch is imported.
By default threads spin where they wait for one another. On a core that somebody else uses as well they spin for as long
as the other one computes: figures are in docs/performance.md. What a user has set stays.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""What GNU's and LLVM's (and Intel's) OpenMP read about waiting."""
OURS = "TBRM_CHOSEN"
"""Names of the variables that the product has set, so that its child processes may choose again."""
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # the second for LLVM's library, which spins for 200 ms


def usable_cores(process: Path = Path("/proc/self")) -> int:
    """Cores that this process can keep busy: those of its affinity, and no more than the CPU quota of its cgroups.

    Part of a core counts as one: threads that wait without spinning make use of it. The load of the machine plays no
    part: the number of threads decides the order of sums, so it must be the same whenever the same process runs.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(process)
    return cores if quota is None else max(1, min(cores, -int(-quota // 1)))


def thread_settings(
    processes: int = 1, threads: int = 0, cores: int = 0, given: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Variables to lay over the environment `given` for each of `processes` equal processes, ours included.

    They share `cores` (0: the usable ones). `threads` above 0 is a user's own number for each. What is in `given` and
    was not put there by this function stays: for waiting, one variable that a user has set keeps all of them.
    """
    ours = given.get(OURS, "").split()

    def is_users(name: str) -> bool:
        return bool(given.get(name)) and name not in ours

    chosen: dict[str, str] = {}
    if not threads and not is_users(THREADS):
        chosen[THREADS] = str(max(1, (cores or usable_cores()) // processes))
    if not any(is_users(name) for name in WAITING):
        chosen |= _PASSIVE
    return chosen | {OURS: " ".join(chosen)} | ({THREADS: str(threads)} if threads else {})


def settle(processes: int = 1, cores: int = 0) -> None:
    """Set this process's own variables; they take effect where torch is not imported yet. See thread_settings."""
    os.environ.update(thread_settings(processes, cores=cores))


def forget_number() -> None:
    """Take back the number of threads that we chose, for a library that divides the cores among its own processes."""
    ours = os.environ.get(OURS, "").split()
    if THREADS in ours:
        del os.environ[THREADS]
        os.environ[OURS] = " ".join(name for name in ours if name != THREADS)


def _quota(process: Path) -> float | None:
    """Cores that the cgroups of a process, and those above them, grant it; None where they set no limit.

    `process` is its folder under /proc. Both versions of cgroups, also side by side; a container often sees its own
    cgroup as the root of what is mounted.
    """
    try:
        groups = (process / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (process / "mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None  # not Linux
    found: list[float] = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            if (root_and_point := _mounted(mount, unified=not controllers)) is not None:
                found += _quotas(*root_and_point, path)
    return min(found, default=None)


def _mounted(mount: str, unified: bool) -> tuple[str, str] | None:
    """(root, mount point) of a line of mountinfo that mounts the hierarchy which limits the CPU; None of another."""
    # number parent device root point options [optional fields] - type source options
    before, _, after = mount.partition(" - ")
    kind, _, options = after.split(" ", 2)
    wanted = kind == "cgroup2" if unified else kind == "cgroup" and "cpu" in options.split(",")
    root, point = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), name) for name in before.split(" ")[3:5])
    return (root, point) if wanted else None


def _quotas(root: str, point: str, path: str) -> list[float]:
    """Limits in cores of the cgroup `path` and of those above it, as far as they can be seen below the mount point."""
    top = Path(point)
    inside = os.path.relpath(path, root)
    folder = top if inside.startswith("..") else top / inside
    levels = [folder, *(above for above in folder.parents if above.is_relative_to(top))]
    return [limit for level in levels if (limit := _limit(level)) is not None]


def _limit(cgroup: Path) -> float | None:
    """Quota of one cgroup in cores: cpu.max of version 2, or the two files of version 1; None of an unlimited one."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((cgroup / name).read_text(encoding="utf-8").strip() for name in names)
    except OSError:
        return None  # the root of a hierarchy has no such file
    return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
