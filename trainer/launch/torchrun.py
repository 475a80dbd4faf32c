"""torchrun, which also notes the signal that ended a process before it could write its own error.

Run as `-m trainer.launch.torchrun JOB_FILE …`.
"""

import os
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from pipeline.run.threads import settle
from pipeline.sandbox.kernel import die_with_parent
from trainer.job import ERROR_FILE
from trainer.launch.processes import STOPPING

_ENDING = (*STOPPING, signal.SIGHUP, signal.SIGQUIT)
_HERE = "--nproc-per-node="


def main(error_file: Path, arguments: list[str]) -> int:
    """Run torchrun with `arguments`; a signal that ended it or its first failed process is named in `error_file`."""
    # This machine may have other cores than the one that started the job.
    settle(next(int(a.removeprefix(_HERE)) for a in arguments if a.startswith(_HERE)))
    api._terminate_process_handler = _end_once  # pyright: ignore[reportPrivateUsage]
    # torchrun compares addresses to find the agent that listens, and may find none; under `srun` it is the first.
    first = [f"--rdzv-conf=is_host={os.environ['SLURM_PROCID'] == '0'}"] if _started_by_srun(arguments) else []
    try:
        torchrun([f"--signals-to-handle={','.join(number.name for number in _ENDING)}", *first, *arguments])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        who, number = f"training process {rank} (pid {failure.pid})", -failure.exitcode
    except SignalException as error:
        who, number = "the launcher of the training processes", int(error.sigval)
    else:
        return 0
    if number > 0 and not error_file.exists():
        text = f"{who} was ended by signal {number} ({signal.Signals(number).name})"
        error_file.write_text(f"{text}; run the stage again to go on from the last checkpoint", encoding="utf-8")
    return 1


def _started_by_srun(arguments: list[str]) -> bool:
    together = any(argument.startswith("--nnodes=") for argument in arguments)
    return together and not any(argument.startswith("--rdzv-conf=") for argument in arguments)


def _end_once(number: int, _frame: object) -> None:
    """Let torchrun end its processes, which save a checkpoint first. Further signals would cut that short."""
    for other in _ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise SignalException(f"signal {number}", sigval=signal.Signals(number))


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(Path(sys.argv[1]).with_name(ERROR_FILE), sys.argv[2:]))
