"""A process that imports what stages need, then forks each stage from itself.

Run as `-m assets.processes.warm_parent REQUESTS LIFE`.

Importing torch, transformers and DeepSpeed takes longer than most stages of a small experiment. `warm_start` starts
such a process and sends it requests over the socket REQUESTS. A parent that many processes share listens on it; the
parent of one process receives connected sockets through it. LIFE is the read end of a pipe, whose other end is held
open by the process that started this one. When that process ends, however it does, the kernel ends this one.

A fork inherits memory, but no threads. So this process only imports. It ends, and stages are started cold, where an
import has started a thread or torch sees an accelerator, whose driver does not survive a fork.
"""

import atexit
import fcntl
import gc
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from assets.processes.supervisor import supervise
from assets.processes.warm_start import STARTED
from pipeline.cli.main import load_command

_IMPORTED = (
    "dagster_pipes",
    "evals.run.stage",
    "matplotlib.pyplot",
    "pandas",  # which pyarrow imports when it first reads Python objects
    "pipeline.sampling.engines.transformers_engine",
    "pipeline.reference",
    "pipeline.rewards.stage",
    "pipeline.sampling.rollouts",
    "trainer.stages.base_policy",
    "trainer.stages.warm_start",
    "trainer.stages.train",
    "trainer.loop.worker",
    "transformers.models.llama.modeling_llama",
)
_COMMANDS = ("base-policy", "rollouts", "rewards", "ref-logprobs", "logged-labels", "train", "evaluate")


def main(requests: socket.socket, life: int) -> int:
    """Fork stages until nobody can ask for one any more. In a fork this returns the exit code of its stage."""
    _end_with(life)
    atexit.register(_leave)  # before all others, so that it is called after them
    if _sees_an_accelerator():
        return 1
    _import_all()
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        return 1
    gc.collect()
    gc.freeze()  # a collection in a fork would copy the pages of all that was imported
    listens = requests.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    while True:
        connection = requests.accept()[0] if listens else _handed_over(requests)
        _reap()
        if connection is None:
            _ending.code = 0
            return 0
        if os.fork() == 0:
            requests.close()
            os.close(life)
            return _stage(connection)
        connection.close()


def _handed_over(requests: socket.socket) -> socket.socket | None:
    """The next connection; None when nobody can send one any more."""
    _, descriptors, _, _ = socket.recv_fds(requests, 1, 1)
    return socket.socket(fileno=descriptors[0]) if descriptors else None


def _stage(connection: socket.socket) -> int:
    """In a fork: become the supervisor of one stage, and, in a fork of that, the stage itself.

    The supervisor sends the stage's exit status and ends in here; the stage returns from here to its end.
    """
    request, (caller_pipe, output) = _receive(connection)
    command: list[str] = request["command"]  # python -m MODULE …
    connection.sendall(STARTED)
    os.setsid()
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    setproctitle(" ".join(["supervisor.py", *command]))
    code = supervise(caller_pipe, request["grace_s"], request["child_first"])
    if code is not None:
        connection.sendall(str(code).encode())
        os._exit(0)  # nothing of what was imported has anything to tidy up
    connection.close()
    setproctitle(" ".join(command))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]  # as `-m` has it
    sys.argv = command[2:]
    try:
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
        _ending.code = 0
    except SystemExit as ended:
        _ending.code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    except KeyboardInterrupt:
        _ending.code = -signal.SIGINT
        raise
    return 0


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request: its length in 8 bytes, which bring the descriptors, then JSON."""
    head, descriptors, _, _ = socket.recv_fds(connection, 8, 2)
    with connection.makefile("rb") as stream:
        return json.loads(stream.read(int.from_bytes(head))), descriptors


def _import_all() -> None:
    from trainer.engine.deepspeed import load_deepspeed

    load_deepspeed()
    for module in _IMPORTED:
        importlib.import_module(module)
    for name in _COMMANDS:
        load_command(name)


def _sees_an_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def _end_with(life: int) -> None:
    """Let the kernel end this process when the last write end of the pipe is closed, even during an import."""
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:  # the pipe was closed before this process asked for the signal
        os.kill(os.getpid(), signal.SIGIO)


@dataclass
class _Ending:
    code: int = 1
    """Exit status, at first that of an uncaught exception. -n: the process ends itself by signal n, as after Ctrl-C."""


_ending = _Ending()


def _leave() -> None:
    """End at once after all other exit functions: Python would spend seconds on taking apart what was imported."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if _ending.code < 0:
        signal.signal(-_ending.code, signal.SIG_DFL)
        os.kill(os.getpid(), -_ending.code)
    os._exit(_ending.code)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])))
