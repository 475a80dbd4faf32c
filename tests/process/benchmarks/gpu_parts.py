"""Parts for the tests of the runner: one that fails after an answer, and one that hangs with a child of its own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def fails(sizes: Any, work: Path) -> Iterator[dict[str, Any]]:
    yield {"first": 1}
    raise RuntimeError("out of luck")


def hangs(sizes: Any, work: Path) -> Iterator[dict[str, Any]]:
    child = subprocess.Popen(["sleep", "600"])
    yield {"child": child.pid}
    child.wait()


def answers(sizes: Any, work: Path) -> Iterator[dict[str, Any]]:
    yield {"second": 2}
