"""What OpenMP really gets, in each kind of process that the product starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from assets.processes.launcher import LocalLauncher, Process
from pipeline.run.threads import usable_cores
from tests.support.openmp import DISPLAY, SAID_NOTHING, displayed, undecided
from tests.support.tiny import write_tiny

MAIN = [sys.executable, "-c", "from pipeline.cli.main import main; main()"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, (1, "PASSIVE")), ({"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}, (3, "ACTIVE"))],
)
def test_a_command_that_a_user_types(tmp_path: Path, own: dict[str, str], expected: tuple[int, str]) -> None:
    write_tiny(tmp_path)
    one_core = {min(os.sched_getaffinity(0))}
    done = subprocess.run(
        [*MAIN, "base-policy", "-e", "tiny", "--set", "policy.warm_start=null"],
        cwd=tmp_path,
        env=undecided() | own,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, one_core),
        check=True,
    )
    assert set(displayed(done.stderr)) == {expected}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stage_that_a_launcher_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    for name in SAID_NOTHING:
        monkeypatch.delenv(name, raising=False)
    ended = LocalLauncher().run(Process([sys.executable, "-c", "import torch"], tmp_path / "log", DISPLAY, processes))
    assert ended.code == 0
    expected = (max(1, usable_cores() // processes), "PASSIVE")
    assert set(displayed((tmp_path / "log").read_text())) == {expected}
