"""Processes that end with the one that started them, however that ends.

Also a vLLM plugin, which vLLM calls in each of its processes: its own clean-up runs in the process that started the
engine. When that one is killed, nobody runs it, and the engine would keep its memory for ever.
"""

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends; does nothing in a process that multiprocessing did not start."""
    parent = multiprocessing.parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not parent.is_alive():  # it ended before we asked
        os._exit(1)
