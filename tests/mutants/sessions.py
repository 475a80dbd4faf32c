"""Test sessions forked from one process that has imported the heavy libraries, each in a copy of the tree."""

import compileall
import importlib
import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# None of ours: a copy imports its own.
HEAVY = (
    *(
        "torch",
        "transformers",
        "pyarrow.parquet",
        "pyarrow.compute",
        "pydantic",
        "pytest",
        "numpy",
        "safetensors.torch",
    ),
    *("hypothesis", "dagster", "sympy", "yaml", "rich.console", "fsspec", "scipy.stats", "jinja2", "duckdb"),
)


def import_heavy() -> None:
    for name in HEAVY:
        importlib.import_module(name)


def copy_of_tree(tree: Path, folder: Path) -> Path:
    """What git tracks or would add, compiled so that a changed file is seen whatever its time says."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=tree,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (tree / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, folder / name)
    shared = tree.parent / "shared"  # data that some tests read, beside the tree
    if shared.exists() and not (folder.parent / "shared").exists():
        (folder.parent / "shared").symlink_to(shared.resolve())
    compileall.compile_dir(folder, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return folder


@dataclass(frozen=True)
class Session:
    """One run of pytest on `tests` in `folder`; `lines`: also which lines of the product it executes."""

    name: str
    folder: Path
    tests: list[str]
    seconds: float
    lines: bool = False


@dataclass
class Ended:
    """`failed`: the first test that failed, "" where none did, "time limit" where it had to be stopped."""

    failed: str
    seconds: float
    lines: dict[str, list[int]] = field(default_factory=dict)


class _FirstFailure:
    failed = ""

    def pytest_runtest_logreport(self, report: object) -> None:
        if getattr(report, "failed", False):
            self.failed = self.failed or str(getattr(report, "nodeid", ""))

    pytest_collectreport = pytest_runtest_logreport


def run_sessions(jobs: int, work: Iterator[Session], done: Callable[[Session, Ended], None]) -> None:
    """Run them, `jobs` at a time. `work` is asked for the next one when there is room."""
    running: dict[int, tuple[Session, float, Path]] = {}
    more = True
    while more or running:
        while more and len(running) < jobs:
            following = next(work, None)
            if following is None:
                more = False
                break
            answer = Path(tempfile.mkdtemp(prefix="tbrm-session-"))
            running[_fork(following, answer)] = (following, time.monotonic(), answer)
        for pid in list(running):
            session, started, answer = running[pid]
            took = time.monotonic() - started
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
            if not ended and took < session.seconds:
                continue
            _end_group(pid)
            if not ended:
                os.waitpid(pid, 0)
            del running[pid]
            written = answer / "ended.json"
            found = (
                json.loads(written.read_text())
                if written.exists()
                else {"failed": "time limit" if not ended else "died"}
            )
            shutil.rmtree(answer, ignore_errors=True)
            done(session, Ended(found["failed"], took, found.get("lines", {})))
        time.sleep(0.05)


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _fork(session: Session, answer: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    code = 1
    try:
        code = _run(session, answer)
    finally:
        os._exit(code)


def _run(session: Session, answer: Path) -> int:
    import pytest

    os.chdir(session.folder)
    output = os.open(answer / "output", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path.insert(0, str(session.folder))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(session.folder), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(answer)}
    tempfile.tempdir = None
    for name in [n for n in sys.modules if n.partition(".")[0] in ("tests", "pipeline", "trainer", "evals", "assets")]:
        del sys.modules[name]
    first = _FirstFailure()
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "--durations=0", *session.tests]
    if session.lines:
        import coverage

        tracer = coverage.Coverage(data_file=None, source=[str(session.folder)], omit=["tests/*"])
        tracer.start()
        code = pytest.main(arguments, plugins=[first])
        tracer.stop()
        data = tracer.get_data()
        lines = {
            Path(name).relative_to(session.folder).as_posix(): sorted(data.lines(name) or ())
            for name in data.measured_files()
        }
    else:
        code, lines = pytest.main(arguments, plugins=[first]), {}
    failed = first.failed or ("" if code in (0, 5) else f"pytest ended with {code}")
    (answer / "ended.json").write_text(json.dumps({"failed": failed, "lines": lines}))
    return 0
