"""A dozen trials of the campaign: the experiment disturbed, resumed, and compared with an undisturbed run."""

import json
import subprocess
import sys
from pathlib import Path

from tests.faults.campaign import BRIEF

ROOT = Path(__file__).resolve().parents[2]


def test_a_fault_of_each_kind_leaves_the_same_store_and_the_same_policy(tmp_path: Path) -> None:
    """In a process of its own: the campaign forks, and this one may hold other tests' threads."""
    out = tmp_path / "faults.json"
    command = [sys.executable, "-m", "tests.faults.campaign", "--brief", "--seed", "5", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert result["clean"] == result["trials"] == len(BRIEF)
