"""Starts stages as forks of a warm parent: one that a process above keeps for many runs, or one of this process's own.

`tbrm ui` keeps one for all runs that it starts, so that a click starts a stage in a fraction of a second. Where no
process above keeps one, as under `tbrm run`, a process starts its own with its first stage.
"""

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.run.threads import thread_settings

STARTED = b"+"
"""The parent's first answer: the stage is under way. After it only the stage's exit status follows."""
SHARED = "TBRM_WARM_PARENT"
"""Variable with the folder of a warm parent that a process above keeps."""
_SOCKET, _ALIKE = "requests", "alike.json"
_OF_ONE_RUN = (
    *("DAGSTER_", "SF_PARTNER", "TBRM_", "PYTHONWARNINGS", "SLURM_CONF"),
    *("PWD", "OLDPWD", "SHLVL", "_=", "PYTEST_CURRENT_TEST"),
)
"""Beginnings of variables that may differ from one stage to the next. No imported library reads them, or they change
only what is printed, as those for warnings do. Dagster sets SF_PARTNER when it is imported."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Of the warm parent: keeps NumPy and Arrow from starting threads when they are imported."""
_END_S = 10.0
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}
"""Makes the output of a Python process come while it works."""


class WarmStage:
    """The supervisor of a stage that was forked warm. It is not our child, but sends the exit status to us."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._told = connection, b""
        self._code: int | None = None

    def wait(self) -> int:
        """Wait until no process of the stage is left; its exit status, or -9 when the supervisor itself was killed."""
        while self._code is None:
            part = self._connection.recv(16)
            self._told += part
            if not part:
                self._connection.close()
                self._code = int(self._told) if self._told else -signal.SIGKILL
        return self._code


@dataclass
class _Parent:
    """The warm parent of this process, and what every stage that it forks has in common with it."""

    process: subprocess.Popen[bytes]
    requests: socket.socket
    life: int
    alike: Any
    owner: int


_lock = threading.Lock()
_parent: _Parent | None = None


def start_warm(
    command: Sequence[str], grace_s: float, environment: Mapping[str, str], output: int, child_first: bool = False
) -> tuple[WarmStage, int] | None:
    """Start `command` in a fork, its output to `output`, as `launcher.start_supervised` does. None: start it cold.

    It is None where the parent cannot fork (see `warm_parent`), for a command other than `python -m MODULE …`, and for
    an environment or a set of cores other than the parent's, because libraries read those when they are loaded.
    """
    if list(command[:2]) != [sys.executable, "-m"] or not sys.platform.startswith("linux"):
        return None
    about = {"command": list(command), "environment": dict(environment), "folder": str(Path.cwd())}
    about |= {"grace_s": grace_s, "child_first": child_first}
    with contextlib.ExitStack() as undo:
        ours = _line_to_a_parent(environment)
        if ours is None:
            return None
        undo.enter_context(ours)
        caller_end, our_end = os.pipe()
        undo.callback(os.close, our_end)
        request = json.dumps(about).encode()
        try:
            socket.send_fds(ours, [len(request).to_bytes(8)], [caller_end, output])
            ours.sendall(request)
            if ours.recv(1) != STARTED:
                return None
        except OSError:
            return None
        finally:
            os.close(caller_end)
        undo.pop_all()
        return WarmStage(ours), our_end


@contextlib.contextmanager
def keep_warm(environment: Mapping[str, str]) -> Generator[dict[str, str]]:
    """A warm parent for all stages with this `environment` until the block ends; yields the variable that names it.

    Its socket lies in a folder that only this user can enter. Where a process above keeps a parent already, this one
    starts none and yields nothing.
    """
    if SHARED in environment or not sys.platform.startswith("linux"):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="tbrm-warm-") as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(Path(folder, _SOCKET)))
        listening.listen(64)
        Path(folder, _ALIKE).write_text(json.dumps(_alike(environment)), encoding="utf-8")
        process, life = _start_parent(listening, environment)
        try:
            yield {SHARED: folder}
        finally:
            os.close(life)
            process.wait()


def stage_environment(given: Mapping[str, str], workers: int = 1, threads: int = 0) -> dict[str, str]:
    """The environment of a stage on this machine that is started under the environment `given`.

    Its output comes while it works, and its equal `workers` share the cores, unless each is to have so many `threads`.
    """
    return {**given, **UNBUFFERED, **thread_settings(workers, threads, given=given)}


def _line_to_a_parent(environment: Mapping[str, str]) -> socket.socket | None:
    """A connection to a parent whose forks have this environment; None where there is none."""
    alike = _alike(environment)
    with contextlib.suppress(OSError):
        folder = Path(environment[SHARED]) if SHARED in environment else None
        if folder is not None and json.loads((folder / _ALIKE).read_text(encoding="utf-8")) == alike:
            shared = socket.socket(socket.AF_UNIX)
            try:
                shared.connect(str(folder / _SOCKET))
            except OSError:  # that parent has ended, as it does on a machine with a GPU, where ours would end too
                shared.close()
                return None
            return shared
    ours, theirs = socket.socketpair()
    with theirs, _lock:
        parent = _ours(environment, alike)
        if parent.alike != alike:
            ours.close()
            return None
        with contextlib.suppress(OSError):  # the parent has ended: then nobody answers on the connection
            socket.send_fds(parent.requests, [b"+"], [theirs.fileno()])
    return ours


def _alike(environment: Mapping[str, str]) -> Any:
    """What a stage must have in common with its parent: variables and cores, in the types that JSON gives back."""
    told = {name: value for name, value in environment.items() if not f"{name}=".startswith(_OF_ONE_RUN)}
    return [told, sorted(os.sched_getaffinity(0))]


def _ours(environment: Mapping[str, str], alike: Any) -> _Parent:
    """The warm parent of this process, started at the first call. A fork of this process starts one of its own."""
    global _parent
    if _parent is None or _parent.owner != os.getpid():
        ours, theirs = socket.socketpair()
        with theirs:
            process, life = _start_parent(theirs, environment)
        _parent = _Parent(process, ours, life, alike, os.getpid())
        atexit.register(_end, _parent)
    return _parent


def _start_parent(requests: socket.socket, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and the write end of a pipe: when that is closed, the kernel ends it."""
    life, our_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "assets.processes.warm_parent", str(requests.fileno()), str(life)],
        env={**ONE_THREAD, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(requests.fileno(), life),
        start_new_session=True,
    )
    os.close(life)
    return process, our_end


def _end(parent: _Parent) -> None:
    """Wait until the parent has ended by itself, so that the system counts its processor time as ours."""
    if parent.owner == os.getpid():
        parent.requests.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            parent.process.wait(_END_S)
        os.close(parent.life)
