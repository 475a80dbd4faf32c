"""The suite's own rules: no process in the unit tier, and a failing run that says how to repeat what failed."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
STARTERS = """
import multiprocessing, os, subprocess, sys

def test_popen():
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)

def test_fork():
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)

def test_forkserver():
    process = multiprocessing.get_context("forkserver").Process(target=len, args=("",))
    process.start()
    process.join()

def test_none():
    pass
"""
FAILING = """
import pytest

@pytest.fixture
def broken():
    raise OSError("no such thing")

@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("text", ["a@b", "it's"])
def test_text(text):
    print("noise " * 10, *range(200), sep="\\n")
    assert text == "none"

def test_with_a_broken_fixture(broken):
    pass

def test_that_passes():
    pass
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """pytest in `folder`, with this suite's conftest."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests" / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  unit: a\n  process: b\n")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = words or ("-m", "pytest", "-q")
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_only_the_unit_tier_refuses_to_start_processes(tmp_path: Path) -> None:
    for tier in ("unit", "process"):
        (tmp_path / "tests" / tier).mkdir(parents=True)
        (tmp_path / "tests" / tier / f"test_{tier}.py").write_text(STARTERS)
    done = run(tmp_path)
    assert "3 failed, 5 passed" in done.stdout, done.stdout
    for name in ("popen", "fork", "forkserver"):
        assert f"tests/unit/test_unit.py::test_{name} starts a process" in done.stdout


def test_the_last_thirty_lines_say_what_failed_and_how_to_repeat_it(tmp_path: Path) -> None:
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "test_few.py").write_text(FAILING)
    done = run(tmp_path, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup")
    end = "\n".join(done.stdout.splitlines()[-30:])
    assert "AssertionError: assert 'a@b' == 'none'" in end
    assert "test_few.py::test_with_a_broken_fixture (setup)" in end
    assert "OSError: no such thing" in end
    commands = [shlex.split(line) for line in end.splitlines() if " -m pytest " in line]
    assert len(commands) == 3
    again = run(tmp_path, *commands[0][1:-1], "-q", *(command[-1] for command in commands))
    assert "2 failed, 1 error" in again.stdout, again.stdout
    assert "passed" not in again.stdout
