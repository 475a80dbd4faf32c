"""Imported by the fork server before its first worker: Math-Verify, prepared, so that every worker is born ready.

First the fork server starts itself anew without the environment that it was given, which may hold keys: deleting them
would leave them readable in /proc, and in the memory that every worker inherits.
"""

import os
import sys

NEEDED = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONHASHSEED",
    "PYTHONUTF8",
    "LD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
)
"""Variables by which Python and its packages are found, and text is read."""
_MARK = "TBRM_FORK_SERVER"


def start_without_environment() -> None:
    """Replace this process by the same with an environment of `NEEDED` only. Returns in the new one."""
    if os.environ.pop(_MARK, None) is None:
        kept = {name: os.environ[name] for name in NEEDED if name in os.environ}
        os.execve(sys.executable, sys.orig_argv, kept | {_MARK: "1"})


if "from multiprocessing.forkserver import main" in " ".join(sys.orig_argv):
    start_without_environment()
    from pipeline.rewards.workers.worker import ready
    from pipeline.sandbox.confinement import prepare

    ready("math_verify")
    prepare()
