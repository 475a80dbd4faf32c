"""docs/extending.md is true: its four patches apply to the code as it is, and what they add works."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.store import open_store
from tests.support.tiny import SMALLEST, set_options

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "extending.md"


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product with all patches of the page."""
    copy = tmp_path_factory.mktemp("extended")
    for name in ("pipeline", "trainer", "evals", "assets", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dagster.yaml", copy)
    patches = re.findall(r"```diff\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(patches) == 4
    for patch in patches:
        done = subprocess.run(["git", "apply", "-"], cwd=copy, input=patch, text=True, capture_output=True)
        assert done.returncode == 0, f"{done.stderr}\n{patch}"
    return copy


def tbrm(folder: Path, *arguments: str, given: str = "") -> str:
    """Output of a command of the copy."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "TBRM_ROOT")}
    environment |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_verifier_grades(patched: Path) -> None:
    rows = [{"response": "12", "answer": "12"}, {"response": "twelve", "answer": "12"}]
    graded = tbrm(patched, "grade", "--verifier", "exact", given="".join(json.dumps(row) + "\n" for row in rows))
    assert [json.loads(line)["reward"] for line in graded.splitlines()] == [1.0, 0.0]


def test_all_four_together_run(patched: Path) -> None:
    command = PAGE.read_text().rpartition("```bash\n")[2].partition("\n```")[0].split()
    changes = set_options(SMALLEST)
    tbrm(patched, *command[1:], *changes, "--root", str(patched / "data"))
    store = open_store(str(patched / "data"))
    rollouts = store.partition("arith_tiny", "rollouts", 0)
    assert rollouts.manifest().stats["engine"] == "uniform"
    assert rollouts.manifest().stats["entropy_per_token"] == pytest.approx(2.833, abs=0.001), "log 17"
    assert set(store.partition("arith_tiny", "rewards", 0).read_shard(0)["verifier"].to_pylist()) == {"exact"}
    assert (patched / "data/arith_tiny/lengths/generation=0000/_manifest.json").exists()
    training = patched / "data/arith_tiny/trained_policy/generation=0000/training.json"
    assert json.loads(training.read_text())["training"]["objective"] == "absolute"
