"""Machines that offer less than this one: what is said to be in force is in force, and what is missing is named."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.rewards.code_in_answers import deeds

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PROGRAM = """
import json, logging, sys
import landlockpy, seccompy  # while everything is allowed, as on the machine that is played
asked = json.loads(sys.argv[1])
if asked["refused"] or asked["prctl"]:
    rules = seccompy.Filter()
    for name in asked["refused"]:
        rules.errno(name, asked["error"])
    for option in asked["prctl"]:
        rules.errno("prctl", 22, args=[(0, seccompy.CmpOp.EQ, option)])
    rules.load()
logging.basicConfig(stream=sys.stderr, format="%(message)s")
from pipeline.config.rewards import RewardsConfig
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem
from pipeline.sandbox import protections_here
config = RewardsConfig(verifier="user_verifiers:runs_the_response", workers=1, timeout_s=20, cpu_s=5)
rows = [row for deed in asked["deeds"] for row in (deed, "told = 'honest'")]
with Grader(config, memoize=False) as grader:
    labels = list(grader.grade(GradeItem(row, "told = 'honest'") for row in rows))
    found = grader.protections
print(json.dumps({
    "labels": [label.reward for label in labels], "missing": found.missing(), "here": found == protections_here(),
    "no_network": found.no_network, "no_writing": found.no_writing, "layers": found.describe(),
}))
"""
NO_NAMESPACES = ["unshare", "mount", "setns", "mount_setattr"]
NO_LANDLOCK = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]
PR_SET_SECCOMP = 22
MACHINES: dict[str, dict[str, Any]] = {
    "a container, which forbids namespaces": {"refused": NO_NAMESPACES, "error": 1},
    "a kernel before Landlock": {"refused": NO_LANDLOCK, "error": 38},
    "a container on such a kernel": {"refused": [*NO_NAMESPACES, *NO_LANDLOCK], "error": 1},
    "a kernel without filters": {"refused": ["seccomp"], "error": 38, "prctl": [PR_SET_SECCOMP]},
    "namespaces only": {"refused": [*NO_LANDLOCK, "seccomp"], "error": 38, "prctl": [PR_SET_SECCOMP]},
    "nothing": {"refused": [*NO_NAMESPACES, *NO_LANDLOCK, "seccomp"], "error": 38, "prctl": [PR_SET_SECCOMP]},
}


def try_deeds(asked: dict[str, Any], marker: Path, server: socket.socket, command: list[str]) -> dict[str, Any]:
    """Grade answers that run code on the machine `asked`; what it says of itself, its log, and what they did."""
    asked = {"refused": [], "error": 1, "prctl": [], **asked, "deeds": deeds(marker, server.getsockname()[1])}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), *filter(None, sys.path)])}
    done = subprocess.run(
        [*command, "-c", PROGRAM, json.dumps(asked)], env=environment, cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    try:
        server.accept()
        reached = True
    except BlockingIOError:
        reached = False
    return {
        **json.loads(done.stdout.splitlines()[-1]),
        "log": done.stderr,
        "wrote": marker.exists(),
        "reached": reached,
    }


def holds_what_it_says(found: dict[str, Any]) -> None:
    assert found["here"], "what doctor and the manifest say is what the workers have"
    assert found["labels"][1::2] == [1.0] * (len(found["labels"]) // 2), "an honest row keeps its verdict beside them"
    assert not (found["no_network"] and found["reached"]), found["layers"]
    assert not (found["no_writing"] and found["wrote"]), found["layers"]
    said = "this machine cannot fully confine verifiers" in found["log"]
    assert said == bool(found["missing"]), found["log"]
    assert all(gap in found["log"] for gap in found["missing"])


@pytest.fixture
def server() -> Any:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        yield listening


@pytest.mark.parametrize("name", MACHINES)
def test_what_a_lesser_machine_promises_holds(name: str, tmp_path: Path, server: socket.socket) -> None:
    found = try_deeds(MACHINES[name], tmp_path / "marker", server, [sys.executable])
    holds_what_it_says(found)
    if name == "nothing":
        assert "reach the network" in found["missing"]
        assert found["wrote"], "the deeds are real: without protection they are done"


def test_another_user_without_any_rights_is_protected_as_well(tmp_path: Path, server: socket.socket) -> None:
    """A user who is not root gets the same layers, where the machine gives namespaces to everybody."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become somebody else, by setpriv")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    marker = Path("/tmp") / f"tbrm-nobody-{os.getpid()}"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    command = [*nobody, shutil.which(version, path="/usr/bin:/usr/local/bin") or sys.executable]
    reads = subprocess.run([*command, "-c", "import ctypes, sqlite3"], cwd="/", capture_output=True)
    seen = subprocess.run([*nobody, "cat", str(ROOT / "pyproject.toml")], cwd="/", capture_output=True)
    if reads.returncode or seen.returncode:
        pytest.skip(f"no {version}, or not this checkout, that every user may read")
    try:
        found = try_deeds({}, marker, server, command)
    finally:
        marker.unlink(missing_ok=True)
    holds_what_it_says(found)
    assert not found["reached"]
    assert not found["wrote"]
