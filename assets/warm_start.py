"""Starts stages as forks of a warm parent: one for this process, begun with its first stage."""

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STARTED = b"+"  # as assets.warm_parent says it
_OF_ONE_STAGE = "DAGSTER_PIPES_"
"""Variables that may differ from one stage to the next: nothing that is imported reads them."""
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Of the warm parent: keeps NumPy and Arrow from starting threads when they are imported."""
_END_S = 10.0


class WarmStage:
    """A stage's supervisor, which is no child of ours: it tells the exit status through `connection`, and ends."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._told = connection, b""
        self._code: int | None = None

    def wait(self) -> int:
        """The exit status, when no process of the stage is left; -9 when the supervisor was killed before it told."""
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
    command: Sequence[str], grace_s: float, environment: Mapping[str, str], output: int
) -> tuple[WarmStage, int] | None:
    """Start `command` in a fork, its output to `output`; see `launcher.start_supervised`. None: start it cold.

    That is where no process can be forked warm (see assets.warm_parent), for what is not `python -m MODULE …`, and for
    another environment, folder or set of cores than of the first command: libraries read those when they are loaded.
    """
    if list(command[:2]) != [sys.executable, "-m"] or not sys.platform.startswith("linux"):
        return None
    alike = _alike(environment)
    request = json.dumps({"command": list(command), "grace_s": grace_s, "environment": dict(environment)}).encode()
    with contextlib.ExitStack() as undo:
        ours, theirs = socket.socketpair()
        undo.enter_context(ours)
        with theirs, _lock:
            parent = _ours(environment, alike)
            if parent.alike != alike:
                return None
            with contextlib.suppress(OSError):  # it has ended: nobody answers below
                socket.send_fds(parent.requests, [b"+"], [theirs.fileno()])
        caller_end, our_end = os.pipe()
        undo.callback(os.close, our_end)
        try:
            socket.send_fds(ours, [len(request).to_bytes(8)], [caller_end, output])
            ours.sendall(request)
            if ours.recv(1) != _STARTED:
                return None
        except OSError:
            return None
        finally:
            os.close(caller_end)
        undo.pop_all()
        return WarmStage(ours), our_end


def _alike(environment: Mapping[str, str]) -> Any:
    told = {name: value for name, value in environment.items() if not name.startswith(_OF_ONE_STAGE)}
    return told, Path.cwd(), os.sched_getaffinity(0)


def _ours(environment: Mapping[str, str], alike: Any) -> _Parent:
    """The warm parent of this very process; a fork of it has none yet."""
    global _parent
    if _parent is None or _parent.owner != os.getpid():
        ours, theirs = socket.socketpair()
        life, our_end = os.pipe()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "assets.warm_parent", str(theirs.fileno()), str(life)],
                env={**_ONE_THREAD, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), life),
                start_new_session=True,
            )
        os.close(life)
        _parent = _Parent(process, ours, our_end, alike, os.getpid())
        atexit.register(_end, _parent)
    return _parent


def _end(parent: _Parent) -> None:
    """Let the parent end by itself, so that its processor time counts as ours."""
    if parent.owner == os.getpid():
        parent.requests.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            parent.process.wait(_END_S)
        os.close(parent.life)
