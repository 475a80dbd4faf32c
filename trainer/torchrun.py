"""torchrun, which also writes down how a process ended that had no time to say it: `-m trainer.torchrun JOB_FILE …`."""

import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from trainer.launch import ERROR_FILE


def main(error_file: Path, arguments: list[str]) -> int:
    """Run torchrun with `arguments`; a signal that ended it, or the first process that fell, goes to `error_file`."""
    try:
        torchrun(arguments)
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


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).with_name(ERROR_FILE), sys.argv[2:]))
