"""The disk and the clock: no room, no permission, a file size limit, and time that jumps."""

import ctypes
import mmap
import os
import resource
import struct
import subprocess
import time
from pathlib import Path

from tests.faults.process import Child
from tests.faults.trial import TooLate, Trial

_JUMPS = (-3650 * 86400.0, -86400.0, -3600.0, -30.0, 30.0, 3600.0, 86400.0, 3650 * 86400.0)


def full_disk(trial: Trial) -> None:
    """The store lies on a small file system that is full but for up to 1 MiB from the instant on."""
    data = Path(trial.root)
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(data)], check=True)
    try:
        left = trial.rng.randrange(2**20) if trial.rng.random() < 0.5 else trial.rng.randrange(2**14)
        trial.outcome.detail = f"{left:,} bytes left"

        def fill(_child: Child) -> None:
            disk = os.statvfs(data)
            used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
            subprocess.run(["mount", "-o", f"remount,size={used + left}", str(data)], check=True)

        child = trial.strike(fill, stages=("base-policy", "rollouts", "rewards", "ref-logprobs", "train"))
        trial.named(child, "No space left on device")
        subprocess.run(["mount", "-o", "remount,size=256m", str(data)], check=True)
        trial.resume()
        trial.judge()
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)


def file_size_limit(trial: Trial) -> None:
    """No file may grow beyond 64 KiB to 3 MiB: weights and checkpoints do not fit."""
    limit = trial.rng.randrange(2**16, 3 * 2**20)
    trial.outcome.detail = f"limit {limit:,} bytes"
    child = trial.strike(lambda child: resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (limit, limit)))
    trial.named(child, "File too large")
    trial.resume()


def read_only(trial: Trial) -> None:
    """Without the rights of root: from the instant on, folders of the store may not be written to."""
    data = Path(trial.root)
    data.mkdir()
    trial.prepare = _without_capabilities
    whole_tree = trial.rng.random() < 0.5
    closed: list[Path] = []

    def close(_child: Child) -> None:
        folders = sorted(path for path in data.rglob("*") if path.is_dir()) or [data]
        closed.extend(folders if whole_tree else [trial.rng.choice(folders)])
        trial.outcome.detail = f"{len(closed)} folders" if whole_tree else str(closed[0].relative_to(data.parent))
        for path in closed:
            path.chmod(0o555)

    child = trial.strike(close)
    trial.named(child, "Permission denied")
    for path in closed:
        if path.exists():
            path.chmod(0o755)
    trial.resume()


def _without_capabilities() -> None:
    """Root ignores permissions by a capability; without any it is a user like others. Its own right to files stays."""
    version, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(version, nothing):
        raise OSError(ctypes.get_errno(), "capset")


def clock_jumps(trial: Trial) -> None:
    """The wall clock leaps to and fro, by half a minute to ten years."""
    offset = mmap.mmap(-1, 8)
    real, real_ns = time.time, time.time_ns

    def jumping() -> float:
        return real() + struct.unpack("d", offset[:8])[0]

    def jumping_ns() -> int:
        return real_ns() + int(struct.unpack("d", offset[:8])[0] * 1e9)

    def first() -> None:
        time.time, time.time_ns = jumping, jumping_ns

    jumps = [trial.rng.choice(_JUMPS) for _ in range(2)]
    trial.outcome.detail = f"{jumps[0]:+g} s, then {jumps[1]:+g} s"

    def leap(jump: float) -> None:
        offset[:8] = struct.pack("d", jump)

    child = Child(trial.folder / "disturbed", trial.work(first))
    if not child.wait_for(*trial.instant()):
        raise TooLate
    trial.note_committed()
    leap(jumps[0])
    time.sleep(trial.rng.uniform(0.0, 1.0))
    leap(jumps[1])
    child.wait()
    trial.ended(child)
    trial.named(child, "$^")  # there is nothing to complain about
    trial.resume()
