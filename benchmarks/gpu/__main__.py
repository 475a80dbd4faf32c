"""Everything that only a GPU can answer, most important first, each part in a process of its own.

    python -m benchmarks.gpu                        # on the GPU machine: all parts within 8 minutes
    python -m benchmarks.gpu --only 3 --only 5      # parts whose number or name starts so
    python -m benchmarks.gpu --rehearse             # all parts at toy sizes, on a CPU

The result file is written anew after every answer of a part, so nothing is lost when time is up. A part that fails,
or takes longer than it may, is recorded with its last lines, and the next one starts.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.runner import ENVIRONMENT, ROOT, answer_part, chosen, run_all, say


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="number or name; repeatable")
    parser.add_argument("--budget", type=float, default=480.0, metavar="SECONDS", help="of all parts together")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes, for a CPU")
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/gpu.json, or gpu_rehearsal")
    parser.add_argument("--work", type=Path, help="scratch folder with 64 GB to spare; default a temporary one")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        answer_part(*options.part, options.work, options.rehearse)
        return 0
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    name = "gpu_rehearsal.json" if options.rehearse else "gpu.json"
    out = options.out or ROOT / "benchmarks" / "results" / name
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        result = run_all(chosen(options.only), out, work, options.budget, options.rehearse)
    failed = [name for name, row in result["parts"].items() if row["state"] not in ("ok", "left out")]
    say(f"{len(result['parts']) - len(failed)} of {len(result['parts'])} parts answered, {out}")
    if failed:
        say(f"not answered: {', '.join(failed)}; their last lines are in {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
