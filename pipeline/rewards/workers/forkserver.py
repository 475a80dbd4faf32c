"""Workers from a fork server of our own that never import the parent's main module.

The standard library runs the parent's main script again in every new process. A verifier worker needs nothing of it,
and it hurts: Ray's worker script takes seconds to import, and a script without `if __name__ == "__main__"` would start
itself again. This is `multiprocessing.popen_forkserver` with that one step left out, and with a server that nobody else
in this process uses: ours has no environment (see `pipeline.rewards.workers.preload`).
"""

import io
import os
from multiprocessing import forkserver, popen_forkserver, reduction, spawn, util
from multiprocessing.context import ForkServerContext, ForkServerProcess, set_spawning_popen
from multiprocessing.process import BaseProcess
from typing import Any

_MAIN = ("init_main_from_name", "init_main_from_path")
_SERVER: Any = forkserver.ForkServer()
_SERVER.set_forkserver_preload(["pipeline.rewards.workers.preload"])


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
