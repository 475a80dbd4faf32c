"""torchrun, which also notes why its first failed process failed, or the signal that ended it.

Run as `-m trainer.launch.torchrun JOB_FILE …`.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

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
    """Run torchrun with `arguments`. `error_file` then says what its first failed process raised, or which signal ended
    that process or torchrun itself."""
    # This machine may have other cores than the one that started the job.
    settle(next(int(a.removeprefix(_HERE)) for a in arguments if a.startswith(_HERE)))
    api._terminate_process_handler = _end_once  # pyright: ignore[reportPrivateUsage]
    # torchrun compares addresses to find the agent that listens, and may find none; under `srun` it is the first.
    first = [f"--rdzv-conf=is_host={os.environ['SLURM_PROCID'] == '0'}"] if _started_by_srun(arguments) else []
    try:
        torchrun([f"--signals-to-handle={','.join(number.name for number in _ENDING)}", *first, *arguments])
    except ChildFailedError as error:
        text = why_failed(error)
    except SignalException as error:
        text = _signalled("the launcher of the training processes", int(error.sigval))
    else:
        return 0
    if text and not error_file.exists():  # of an agent on another machine
        error_file.write_text(text, encoding="utf-8")
    return 1


def why_failed(error: ChildFailedError) -> str:
    """What the first failed process raised, or how it was ended; empty where it did not come as far as to say so."""
    rank, failure = error.get_first_failure()
    if failure.exitcode < 0:
        return _signalled(f"training process {rank} (pid {failure.pid})", -failure.exitcode)
    raised: Any = failure.message  # a tree where `record` wrote it, else a text of torch's own
    return str(raised["message"]).removeprefix("TbrmError: ") if isinstance(raised, dict) else ""


def _signalled(who: str, number: int) -> str:
    name = signal.Signals(number).name
    return f"{who} was ended by signal {number} ({name}); run the stage again to go on from the last checkpoint"


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
