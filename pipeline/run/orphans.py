"""Processes that end with the one that started them, however that ends.

Also a vLLM plugin, which vLLM calls in each of its processes: its own clean-up runs in the process that started the
engine. When that one is killed, nobody runs it, and the engine would keep its memory for ever.
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
    """End at once with the process that started this one; does nothing where multiprocessing did not start it.

    The kernel sees to it for a child of that process. A child of its fork server waits for the news in a thread: the
    server itself lives on as long as any of its children does.
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
