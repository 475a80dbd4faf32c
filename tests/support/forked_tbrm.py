"""`tbrm` commands as forks of one process that has imported Dagster: five seconds of processor time less for each.

Everything else is as in a process of its own: its pid, its signals, its exit status, its environment and folder.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from assets.processes.warm_start import ONE_THREAD

_IMPORTED = (
    *("assets.app.run_to_end", "dagster._core.storage.event_log", "dagster._core.storage.runs", "sqlalchemy"),
    *("evals.report.history", "matplotlib.backends.backend_agg", "scipy.special", "pandas", "pipeline.cli.options"),
)


class Forked:
    """A running command; `communicate`, `poll`, `wait` and `send_signal` are those of `subprocess.Popen`."""

    def __init__(self, line: socket.socket, output: int) -> None:
        self._line, self._output = line, output
        self.pid = int(line.recv(32))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode if self.returncode is not None or not _readable(self._line, 0) else self.wait()

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not _readable(self._line, timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            told = self._line.recv(32)
            assert told, "the process from which commands are forked has ended"
            self.returncode = int(told)
            self._line.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that it writes until it ends, standard output and error together."""
        deadline = None if timeout is None else time.monotonic() + timeout
        parts: list[bytes] = []
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not _readable(self._output, left):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0, b"".join(parts))
            if not (part := os.read(self._output, 2**16)):
                break
            parts.append(part)
        os.close(self._output)
        self.wait(None if deadline is None else max(deadline - time.monotonic(), 1.0))
        return b"".join(parts).decode(), None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(arguments: Sequence[str], folder: Path, env: Mapping[str, str]) -> Forked:
    """`tbrm *arguments` in `folder`, with this whole environment."""
    line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    output, write_end = os.pipe()
    request = json.dumps({"arguments": list(arguments), "folder": str(folder), "env": dict(env)}).encode()
    length = len(request).to_bytes(8)
    with theirs:
        socket.send_fds(_server(), [length], [theirs.fileno(), write_end])
        _server().sendall(request)
    os.close(write_end)
    return Forked(line, output)


@functools.cache
def _server() -> socket.socket:
    """The line to the process that forks, started at the first call. It ends with this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            env={**os.environ, **ONE_THREAD},
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    atexit.register(ours.close)
    return ours


def _readable(what: socket.socket | int, timeout: float | None) -> bool:
    return bool(select.select([what], [], [], timeout)[0])


def _serve(requests: socket.socket) -> None:
    for module in _IMPORTED:
        importlib.import_module(module)
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, f"an import started {len(threads) - 1} threads"
    gc.collect()
    gc.freeze()
    while True:
        length, descriptors, _, _ = socket.recv_fds(requests, 8, 2)
        if not length:
            return
        line, output = descriptors
        request = json.loads(_exactly(requests, int.from_bytes(length)))
        if (keeper := os.fork()) == 0:
            requests.close()
            _keep(request, socket.socket(fileno=line), output)
        for descriptor in descriptors:
            os.close(descriptor)
        _reap(keeper)


_keepers: set[int] = set()


def _reap(keeper: int) -> None:
    _keepers.add(keeper)
    for pid in list(_keepers):
        if os.waitpid(pid, os.WNOHANG)[0]:
            _keepers.remove(pid)


def _exactly(requests: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        parts += requests.recv(length - len(parts))
    return parts


def _keep(request: dict[str, object], line: socket.socket, output: int) -> None:
    """In a fork: start the command in a fork of that, tell its pid, wait for it, tell its exit status."""
    pid = os.fork()
    if pid == 0:
        line.close()
        _run(request, output)
    os.close(output)
    line.send(str(pid).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    line.send(str(code).encode())
    os._exit(0)


def _run(request: dict[str, object], output: int) -> None:
    code = 1
    try:
        for standard in (1, 2):
            os.dup2(output, standard)
        os.close(output)
        os.environ.clear()
        os.environ.update(request["env"])  # pyright: ignore
        os.chdir(str(request["folder"]))
        sys.path[0] = ""
        sys.argv = ["tbrm", *request["arguments"]]  # pyright: ignore
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from pipeline.cli.main import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - what Python itself does with it at the end of a process
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
