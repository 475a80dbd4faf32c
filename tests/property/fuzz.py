"""The property tests for as long as asked, with fresh random seeds, and what they found.

    python -m tests.property.fuzz --minutes 60 --out benchmarks/results/fuzzing.json

Counts are added to those in the file, so that hours may be collected in pieces. A failure is printed as the suite would
print it, counted, and the next target goes on.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, seed, settings

MODULES = (
    *("unit.property.test_fuzz_readers", "unit.property.test_fuzz_import", "unit.property.test_fuzz_formats"),
    "unit.property.test_fuzz_surfaces",
    *("process.property.test_fuzz_columnar", "process.property.test_fuzz_verifiers"),
    "process.property.test_fuzz_commands",
)
ROUND = 10
"""Examples of a target before the next one has its turn."""


def targets(only: str) -> dict[str, Callable[[], None]]:
    """Every property test by name; those with `only` in it or in the name of their module."""
    found: dict[str, Callable[[], None]] = {}
    for module in MODULES:
        loaded = importlib.import_module(f"tests.{module}")
        tests = {name: test for name, test in vars(loaded).items() if hasattr(test, "hypothesis")}
        found |= {name: test for name, test in tests.items() if only in f"{module}.{name}"}
    return found


def _long_runs() -> None:
    """Before the tests are imported: they keep the settings of that moment."""
    settings.register_profile(
        "fuzz", max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    settings.load_profile("fuzz")


def fuzz(minutes: float, first_seed: int, only: str, totals: dict[str, Any], keep: Callable[[], None]) -> None:
    """Take turns until the time is over; adds to `totals`, and keeps them after every turn."""
    end = time.monotonic() + 60 * minutes
    number = first_seed
    _long_runs()
    tests = targets(only)
    while time.monotonic() < end:
        for name, test in tests.items():
            entry = totals.setdefault(name, {"examples": 0, "seconds": 0.0, "failures": []})
            started, number = time.monotonic(), number + 1
            said = io.StringIO()
            try:
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    seed(number)(test)()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                traceback.print_exc()
                entry["failures"].append({"seed": number, "error": f"{type(error).__name__}: {error}"[:500]})
            entry["examples"] += ROUND
            entry["seconds"] = round(entry["seconds"] + time.monotonic() - started, 1)
            keep()
            if time.monotonic() > end:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets whose name, or whose file's, has this in it")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    result: dict[str, Any] = {"cores": os.cpu_count(), "minutes": 0.0, "targets": {}}
    if options.out.exists():
        result = json.loads(options.out.read_text())
    before, started = result["minutes"], time.monotonic()

    def keep() -> None:
        result["minutes"] = round(before + (time.monotonic() - started) / 60, 1)
        options.out.write_text(json.dumps(result, indent=1) + "\n")

    fuzz(options.minutes, options.seed, options.only, result["targets"], keep)


if __name__ == "__main__":
    main()
