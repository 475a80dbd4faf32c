"""A process that ends as soon as the process that started it has ended, even when that was killed.

This is also a vLLM plugin: vLLM calls it in each of its processes. vLLM's own clean-up runs in the process that started
the engine. When that process is killed, no clean-up runs, and the engine's processes would keep their memory for ever.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """End this process as soon as its parent ends. Does nothing where multiprocessing did not start this process.

    For a child of the parent the kernel does it. A process that came from a fork server is a child of that server,
    which lives on as long as any of its children: there a thread waits for the end of the parent.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if not sys.platform.startswith("linux") or os.getppid() != parent.pid:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not parent.is_alive():  # it ended before we asked
        os._exit(1)


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
