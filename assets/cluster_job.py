"""Follow one job of a cluster, and cancel it when told to end: `cluster_job.py CANCEL_AS_JSON SUBMIT…`.

Standard library only and started by its path, under the supervisor: when Dagster's process is gone, even by SIGKILL,
the supervisor ends this one, and this one ends the job on the other machine.
"""

import json
import signal
import subprocess
import sys

_CANCEL_S = 20.0


def follow(submit: list[str], cancel: list[str]) -> int:
    """Run `submit`, which waits for the job, to its end. Returns its exit status, 128 + n after signal n."""
    ended_by: list[int] = []
    try:
        job = subprocess.Popen(submit)
    except FileNotFoundError:
        sys.stdout.write(f"{submit[0]}: not found on the machine that runs Dagster\n")
        return 127

    def end(number: int, _frame: object) -> None:
        if not ended_by:
            ended_by.append(number)
            # Whoever read our output may be gone: a word into that pipe would end the command before its work.
            subprocess.run(cancel, timeout=_CANCEL_S, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
            job.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    code = job.wait()
    if ended_by:
        return 128 + ended_by[0]
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(follow(sys.argv[2:], json.loads(sys.argv[1])))
