"""Follow one job of a cluster, and end it when told to: `cluster_job.py ENDING_AS_JSON SUBMIT…`.

It uses the standard library only, is started by its path, and runs under the supervisor. When Dagster's process is
gone, even by SIGKILL, the supervisor ends this one, and this one ends the job on the other machine. The commands `ask`
tell the job to save what it has and to end within `grace_s`; the command `cancel` ends it in any case.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence

_COMMAND_S = 20.0
_LOOK_EVERY_S = 0.1


def follow(submit: list[str], ask: list[list[str]], cancel: list[str], grace_s: float) -> int:
    """Run `submit`, which waits for the job, to its end. Returns its exit status, 128 + n after signal n."""
    ended_by: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _frame: ended_by.append(n))
    try:
        job = subprocess.Popen(submit)
    except FileNotFoundError:
        sys.stdout.write(f"{submit[0]}: not found on the machine that runs Dagster\n")
        return 127
    while not ended_by:
        if _ends(job, _LOOK_EVERY_S):
            return job.returncode if job.returncode >= 0 else 128 - job.returncode
    for command in ask:
        _run(command)
    if not (ask and _ends(job, grace_s)):
        _run(cancel)
        job.terminate()
        job.wait()
    return 128 + ended_by[0]


def _ends(job: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        job.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _run(command: Sequence[str]) -> None:
    # The reader of our output may be gone: then a command that writes into the pipe would be ended before its work.
    subprocess.run(command, timeout=_COMMAND_S, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    sys.exit(follow(sys.argv[2:], **json.loads(sys.argv[1])))
