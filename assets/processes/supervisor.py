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
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.02
_LEFTOVER_GRACE_S = 2.0
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
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
        # The children of a zombie too: while some of its threads are still ending, they have no other parent yet.
        found += [pid for pid in layer if pid not in ended]
        layer = [child for pid in layer for child in children.get(pid, [])]
    return found


def _prctl(option: int, value: int) -> None:
    if _ON_LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _signal_all(child: int, number: int) -> list[int]:
    below = descendants(os.getpid())
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    # Only where there is no /proc to walk: a second signal would end what a process starts to tidy up after the first.
    if not _ON_LINUX:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, number)
    return below


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _end_tree(child: int, grace_s: float, child_first: bool = False) -> None:
    """Send SIGTERM to every descendant, and SIGKILL to those still there after `grace_s` seconds, until none is left.

    With `child_first` the child alone is sent SIGTERM, so that it ends in order what it has started. What is then left
    gets SIGTERM too.
    """
    deadline = time.monotonic() + grace_s
    if child_first:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        while child in descendants(os.getpid()) and time.monotonic() < deadline:
            _reap()
            time.sleep(_POLL_S)
        deadline = time.monotonic() + _LEFTOVER_GRACE_S
    _signal_all(child, signal.SIGTERM)
    while time.monotonic() < deadline:
        _reap()
        if not descendants(os.getpid()):
            return
        time.sleep(_POLL_S)
    while _signal_all(child, signal.SIGKILL):
        _reap()
        time.sleep(_POLL_S)


def supervise(caller_pipe: int, grace_s: float, child_first: bool = False) -> int | None:
    """Fork into a child that does the work, in a session of its own, and a supervisor that owns all that it starts.

    Returns None in the child, at once. In the supervisor it returns when no process is left: the child's exit status,
    or 128 + n when signal n ended the child or told the supervisor to end it.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    supervisor = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # a signal that comes now is delivered after the fork
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(caller_pipe)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # the supervisor ended before we asked for the signal of its death
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        return None
    stopping: list[int] = []
    for number in _ENDING:
        signal.signal(number, lambda n, _frame: stopping.append(n))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    while not (status := os.waitpid(child, os.WNOHANG))[0]:
        if not stopping and select.select([caller_pipe], [], [], _POLL_S)[0]:
            stopping.append(signal.SIGHUP)
        if stopping:
            _end_tree(child, grace_s, child_first)
            return 128 + stopping[0]
    _end_tree(child, _LEFTOVER_GRACE_S)
    code = os.waitstatus_to_exitcode(status[1])
    return code if code >= 0 else 128 - code


def main(caller_pipe: int, grace_s: float, command: list[str]) -> int:
    """Run `command`, behind `--child-first` where that is wanted, to its end. Returns its exit status."""
    os.set_inheritable(caller_pipe, False)
    child_first = command[0] == "--child-first"
    command = command[child_first:]
    code = supervise(caller_pipe, grace_s, child_first)
    if code is None:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and other programs expect them
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
