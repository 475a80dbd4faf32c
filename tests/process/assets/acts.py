"""A stage of a test, `-m tests.process.assets.acts ACT …`: does what its command line says."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.process.assets.test_supervisor import STUBBORN


def main(act: str, *arguments: str) -> int:
    match act:
        case "say":
            sys.stdout.write("one\n")
            sys.stderr.write("two\n")
            return int(arguments[0])
        case "die":
            os.kill(os.getpid(), int(arguments[0]))
            time.sleep(300)
        case "show":
            shown = {
                "variable": os.environ.get("ACT"),
                "unset": "DAGSTER_PIPES_OF_ANOTHER" not in os.environ,
                "argv": sys.argv[1:],
                "folder": str(Path.cwd()),
                "session": os.getsid(0) == os.getpid(),
                "threads": threading.active_count(),
                "warm": "torch" in sys.modules,
                "handlers": [signal.getsignal(n) is signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGHUP)],
                "blocked": [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
                "stdin": sys.stdin.read(),
                "descriptors": sorted(int(e.name) for e in Path("/proc/self/fd").iterdir()),
                "title": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode(),
            }
            sys.stdout.write(json.dumps(shown) + "\n")
        case "start":
            mark, seconds = arguments
            code = [sys.executable, "-S", "-c", STUBBORN, mark, seconds]
            child = subprocess.Popen(code, stdout=subprocess.PIPE, text=True)
            assert child.stdout
            sys.stdout.write(child.stdout.readline())
            time.sleep(float(seconds))
        case "tidy":
            signal.signal(signal.SIGTERM, lambda *_: Path(arguments[0]).write_text("tidy") and sys.exit(0))
            sys.stdout.write("ready\n")
            time.sleep(300)
        case "compute":
            import torch

            torch.manual_seed(0)
            total = float((torch.randn(512, 512) @ torch.randn(512, 512)).sum())
            sys.stdout.write(f"{total} by {torch.get_num_threads()} threads\n")
        case _:
            raise ValueError(act)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
