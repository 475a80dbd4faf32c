"""What holds for every test: its tier, taken from its folder, and what a tier may do."""

import multiprocessing.process
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.repeat import pytest_terminal_summary as pytest_terminal_summary

TIERS = ("unit", "process", "services", "browser", "faults")
HERE = Path(__file__).parent
LONG = ("services/vllm", "process/ui", "browser", "services/postgres", "services/cluster", "faults", "process/studies")
"""Folders whose groups of tests take longest: begun first, so that no worker is left alone with one at the end."""

# One thread for each of the processes that run side by side, waiting without spinning. Read when torch is imported.
for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}.items():
    os.environ.setdefault(name, value)

# A script's background job ignores Ctrl-C, and so would every process that tests start, interrupt and wait for.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Briefly in the suite, for minutes in `python -m tests.property.fuzz`.
settings.register_profile(
    "suite", max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("suite")


def tier_of(path: Path) -> str:
    """The folder below `tests/` that a test file lies in."""
    tier = path.relative_to(HERE).parts[0]
    if tier not in TIERS:
        raise pytest.UsageError(f"{path}: tests lie in one of {', '.join(TIERS)} below {HERE}")
    return tier


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(tier_of(item.path))
    items.sort(key=lambda item: not str(item.path.relative_to(HERE)).startswith(LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: one for each core that may be used. `-n logical`: half as many again, for tests that also wait.

    Tests that start processes wait a third of their time: for Dagster's daemon, a browser, a server that comes up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + (cores + 1) // 2 if config.option.numprocesses == "logical" else cores


class _Guard:
    """Refuses to start processes while a test of the unit tier runs."""

    test: str | None = None

    def refuse(self, what: str) -> None:
        if self.test is not None and not _looking_around():
            pytest.fail(f"{self.test} starts a process ({what}): tests that do lie in tests/process, not in tests/unit")


_GUARD = _Guard()


def _looking_around() -> bool:
    """Whether a library asks gcc or ldconfig about the machine: while it is imported, or DeepSpeed at its first job."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file == "<frozen importlib._bootstrap>" or "/deepspeed/ops/" in file:
            return True
        frame = frame.f_back
    return False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"):
        _GUARD.refuse(f"{event} {arguments[1] if event == 'subprocess.Popen' else ''}")


sys.addaudithook(_hook)
_start = multiprocessing.process.BaseProcess.start


def _guarded_start(process: multiprocessing.process.BaseProcess) -> None:
    # A process of a fork server is started elsewhere, where no hook of this process sees it.
    _GUARD.refuse(f"multiprocessing {process.name}")
    _start(process)


multiprocessing.process.BaseProcess.start = _guarded_start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not item.get_closest_marker("unit"):
        return (yield)
    from tests.support.graded_here import graded_here
    from tests.support.read_here import read_here

    _GUARD.test = item.nodeid
    try:
        with graded_here(), read_here():
            return (yield)
    finally:
        _GUARD.test = None


@pytest.fixture
def no_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a Dagster home nor a store root from outside; both are restored afterwards."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("TBRM_ROOT", "")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tokenizer with one token a byte, so that any text has tokens and they decode back."""
    from tests.support.byte_tokenizer import save_byte_tokenizer

    return save_byte_tokenizer(tmp_path_factory.mktemp("bytes"))
