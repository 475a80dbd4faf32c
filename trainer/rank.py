"""One training process on one of several machines: `-m trainer.rank JOB_FILE`, started by DeepSpeed's launcher.

That passes no environment on; threads are settled here, on the machine that has the cores, before torch is imported.
"""

import os
import sys

from pipeline.threads import settle


def main() -> int:
    """Run `trainer.worker` as one of the machine's processes. Returns its exit code."""
    settle(processes=int(os.environ["LOCAL_SIZE"]))
    from trainer.worker import main as work

    return work(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
