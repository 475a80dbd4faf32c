"""The fork server that workers come from, and how a worker is started from it.

The server imports this module before its first worker. It starts itself anew without the environment that it was given,
which may hold keys: deleting them would leave them readable in /proc, and in the memory that every worker inherits.
Then it imports Math-Verify and builds its parser, so that every worker is born ready.

`multiprocessing` has a public way to such a server (`set_forkserver_preload`), which does not do here:
- it runs the parent's main script again in every worker. Ray's takes seconds to import, that of a stage half a second,
  and a script without `if __name__ == "__main__"` would start itself again. No public option leaves that out.
- it keeps one server for all of the process. Whoever asked for it first would decide whether it has an environment.
So `_Launch` is `multiprocessing.popen_forkserver` without the main script, and with a server of our own.
"""

import io
import os
import sys
from multiprocessing import forkserver, popen_forkserver, reduction, spawn, util
from multiprocessing.context import ForkServerContext, ForkServerProcess, set_spawning_popen
from multiprocessing.process import BaseProcess
from typing import Any

NEEDED = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONHASHSEED", "PYTHONUTF8", "LD_LIBRARY_PATH"),
    *("LANG", "LC_ALL", "LC_CTYPE", "TZ"),
)
"""Variables by which Python and its packages are found, and text is read."""
_MARK = "TBRM_FORK_SERVER"
_MAIN = ("init_main_from_name", "init_main_from_path")
_SERVER: Any = forkserver.ForkServer()
_SERVER.set_forkserver_preload([__name__])


class _Launch(popen_forkserver.Popen):
    def _launch(self, process_obj: BaseProcess) -> None:
        about_parent: dict[str, Any] = spawn.get_preparation_data(process_obj.name)
        message = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump({key: value for key, value in about_parent.items() if key not in _MAIN}, message)
            reduction.dump(process_obj, message)
        finally:
            set_spawning_popen(None)
        self.sentinel, to_child = _SERVER.connect_to_new_process(self._fds)  # pyright: ignore[reportAttributeAccessIssue]
        # The child learns of the parent's death when the last copy of this end is closed.
        kept_open = os.dup(to_child)
        close = util.close_fds  # pyright: ignore[reportAttributeAccessIssue]
        self.finalizer = util.Finalize(self, close, (kept_open, self.sentinel))
        with open(to_child, "wb", closefd=True) as file:  # noqa: PTH123 - a file descriptor, not a path
            file.write(message.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


class _Worker(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_forkserver.Popen:
        return _Launch(process_obj)


class WorkerContext(ForkServerContext):
    """The `forkserver` start method for workers that share nothing with the parent's main module."""

    Process = _Worker


def _start_without_environment() -> None:
    """Replace this process by the same with an environment of `NEEDED` only. Returns in the new one."""
    if os.environ.pop(_MARK, None) is None:
        kept = {name: os.environ[name] for name in NEEDED if name in os.environ}
        os.execve(sys.executable, sys.orig_argv, kept | {_MARK: "1"})


# Fork servers of others import this module too, with the grader: they keep their environment.
_COMMAND = " ".join(sys.orig_argv)
if "from multiprocessing.forkserver import main" in _COMMAND and f"[{__name__!r}]" in _COMMAND:
    _start_without_environment()
    from pipeline.rewards.workers.worker import ready
    from pipeline.sandbox.confinement import prepare

    ready("math_verify")
    prepare()
