"""Run a command and tell how much memory it needed: `python peak_memory.py FILE COMMAND…`.

A process begins with the peak of the one that started it, so a test that has loaded torch cannot measure its own
children: this small one stands between them. Writes the peak of the largest process under it, in KiB, to FILE.
"""

import resource
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    code = subprocess.run(sys.argv[2:], check=False).returncode
    Path(sys.argv[1]).write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
    sys.exit(code)
