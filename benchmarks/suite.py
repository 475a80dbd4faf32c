"""The whole suite again and again, alone and beside busy neighbours: how long it takes, and whether it is ever red.

    python -m benchmarks.suite --runs 5 --neighbours 3      # each run adds a line to benchmarks/results/suite.json

What runs are the two halves of `make test`: `make check`, then every test that starts processes. A neighbour is a
process that computes without end. Runs of many sessions stand in one file, each with its commit: a red run stays there.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from benchmarks.store_rows import RESULTS, machine
from benchmarks.threads import neighbours

REST = ["--numprocesses", "logical", "--dist", "loadgroup", "--no-loadscope-reorder"]
REST += [f"tests/{tier}" for tier in ("process", "services", "browser", "faults")]


def timed(command: list[str], log: Path) -> tuple[float, bool]:
    """(seconds, whether it succeeded); what it printed lies in `log`."""
    started = time.monotonic()
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
    return round(time.monotonic() - started, 1), done.returncode == 0


def outcomes(junit: Path) -> dict[str, Any]:
    """Counts of a run, and the names of the tests that were not green."""
    cases = list(ET.parse(junit).iter("testcase"))
    red = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = sorted(f"{case.get('classname')}::{case.get('name')}" for case in red)
    return {"passed": len(cases) - len(red) - skipped, "skipped": skipped, "red": names}


def one_run(beside: int) -> dict[str, Any]:
    """Both halves, one after the other, as `make test` does."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as name, neighbours(beside):
        folder = Path(name)
        check_s, checked = timed(["make", "check"], folder / "check.log")
        command = [sys.executable, "-m", "pytest", *REST, "--junitxml", str(folder / "rest.xml")]
        rest_s, passed = timed(command, folder / "rest.log")
        if not (checked and passed):
            sys.stderr.write((folder / ("rest.log" if checked else "check.log")).read_text()[-4_000:])
        return {
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
            "commit": commit.stdout.strip(),
            "neighbours": beside,
            "green": checked and passed,
            "check_s": check_s,
            "rest_s": rest_s,
            "rest": outcomes(folder / "rest.xml"),
            "machine": machine(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--neighbours", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "suite.json")
    asked = parser.parse_args()
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    for _ in range(asked.runs):
        runs: list[Any] = json.loads(asked.out.read_text()) if asked.out.exists() else []
        runs.append(one_run(asked.neighbours))
        asked.out.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(json.dumps(runs[-1] | {"machine": None}) + "\n")


if __name__ == "__main__":
    main()
