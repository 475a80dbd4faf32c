"""Run one command and own every process it starts: none outlives it, whatever happens to the caller.

Standard library only and started by its path (`python -S supervisor.py`), so that it costs some 20 ms. It is its own
session and, on Linux, the reaper of orphaned descendants: torchrun and vLLM put their workers into sessions of their
own, so a signal to a process group does not reach them. The caller holds the write end of a pipe; when that closes
(the caller ended, even by SIGKILL) the tree is terminated just as on SIGTERM.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.02
_LEFTOVER_GRACE_S = 2.0
_ON_LINUX = sys.platform.startswith("linux")


def descendants(root: int) -> list[int]:
    """Process ids of everything below `root`, zombies left out; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    ended: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name, which may hold spaces and brackets) state ppid ...
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append(int(entry.parent.name))
            if state == "Z":
                ended.add(int(entry.parent.name))
    found: list[int] = []
    layer = children.get(root, [])
    while layer:
        # Through zombies too: one whose threads are still ending has not handed its children on yet.
        found += [pid for pid in layer if pid not in ended]
        layer = [child for pid in layer for child in children.get(pid, [])]
    return found


def _prctl(option: int, value: int) -> None:
    if _ON_LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_supervisor() -> None:
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_all(child: int, number: int) -> list[int]:
    below = descendants(os.getpid())
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    if not _ON_LINUX:  # no /proc to walk. There is one: a second signal would end what the first made a process start
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, number)
    return below


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _end_tree(child: int, grace_s: float) -> None:
    """SIGTERM to every descendant, SIGKILL to those still there after `grace_s` seconds; returns when none is left."""
    _signal_all(child, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline:
        _reap()
        if not descendants(os.getpid()):
            return
        time.sleep(_POLL_S)
    while _signal_all(child, signal.SIGKILL):
        _reap()
        time.sleep(_POLL_S)


def supervise(command: list[str], caller_pipe: int, grace_s: float) -> int:
    """Run `command` to its end. Returns its exit status, 128 + n when signal n ended it."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _frame: stopping.append(n))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    os.set_inheritable(caller_pipe, False)
    process = subprocess.Popen(command, preexec_fn=_die_with_supervisor)
    while process.poll() is None:
        if not stopping and select.select([caller_pipe], [], [], _POLL_S)[0]:
            stopping.append(signal.SIGHUP)
        if stopping:
            _end_tree(process.pid, grace_s)
            return 128 + stopping[0]
    _end_tree(process.pid, _LEFTOVER_GRACE_S)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[3:], caller_pipe=int(sys.argv[1]), grace_s=float(sys.argv[2])))
