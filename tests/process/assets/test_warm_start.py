"""A stage that is forked from a warm parent is like one that is started cold, but for what it has imported."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assets.processes import warm_start
from assets.processes.launcher import LocalLauncher, Process
from assets.processes.supervisor import descendants
from tests.process.assets.test_supervisor import marked, wait_until_none

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere every stage is started cold")
ACT = [sys.executable, "-m", "tests.process.assets.acts"]


def acted(log: Path, *arguments: str, env: dict[str, str] | None = None) -> Any:
    """How the act ended."""
    os.environ.pop("PYTEST_CURRENT_TEST", None)  # another environment for each test
    return LocalLauncher(grace_s=0.5).run(Process([*ACT, *arguments], log, env or {}))


def shown(log: Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    ended = acted(log, "show", env=env)
    assert ended.code == 0, ended.tail
    return json.loads(ended.tail[-1])


def wait_for(what: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_it_has_imported_torch_and_is_otherwise_a_fresh_process(tmp_path: Path) -> None:
    first = shown(tmp_path / "a", {"DAGSTER_PIPES_OF_ANOTHER": "1"})
    found = shown(tmp_path / "b")
    assert found["warm"]
    assert found["threads"] == 1
    assert found["session"]
    assert found["argv"] == ["show"]
    assert found["folder"] == str(Path.cwd())
    assert found["handlers"] == [True, True]
    assert found["blocked"] == []
    assert found["stdin"] == ""
    assert len(found["descriptors"]) == 4, "standard ones and the listing's own"
    assert found["title"] == " ".join([*ACT, "show"])
    assert [first["unset"], found["unset"]] == [False, True]


def test_another_environment_is_started_cold(tmp_path: Path) -> None:
    assert shown(tmp_path / "a")["warm"]
    cold = shown(tmp_path / "b", {"ACT": "7"})
    assert (cold["warm"], cold["variable"]) == (False, "7")
    assert shown(tmp_path / "c")["warm"]


def test_other_cores_and_another_folder_are_started_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(tmp_path / "a")["warm"]
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        os.sched_setaffinity(0, {min(cores)})
        try:
            assert not shown(tmp_path / "b")["warm"]
        finally:
            os.sched_setaffinity(0, cores)
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "c")["folder"] == str(tmp_path)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (("say", "3"), 3),
        (("say", "0"), 0),
        (("die", "9"), 137),
        (("die", "15"), 143),
        (("die", "2"), 130),
        (("nonsense",), 1),
    ],
)
def test_output_and_exit_status_come_back(tmp_path: Path, act: tuple[str, ...], code: int) -> None:
    ended = acted(tmp_path / "log", *act)
    assert ended.code == code
    assert ended.killed == (code > 128)
    if act[0] == "say":
        assert sorted(ended.tail) == ["one", "two"]
        assert sorted((tmp_path / "log").read_text().split()) == ["one", "two"]
    if act == ("nonsense",):
        assert "ValueError: nonsense" in ended.tail[-1]


def test_it_computes_what_a_cold_one_computes(tmp_path: Path) -> None:
    warm = acted(tmp_path / "warm", "compute")
    cold = acted(tmp_path / "cold", "compute", env={"ACT": "cold"})
    assert warm.code == 0
    assert warm.tail == cold.tail


def test_two_at_once(tmp_path: Path) -> None:
    ended: dict[str, Any] = {}
    names = ["a", "b"]
    threads = [
        threading.Thread(target=lambda n=name: ended.update({n: acted(tmp_path / n, "say", "4")})) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ended[name].code for name in names] == [4, 4]


def test_what_it_leaves_behind_is_ended(tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}-warm-left"
    assert acted(tmp_path / "log", "start", mark, "0").code == 0
    assert marked(mark) == []


CALLER = """
import sys; from pathlib import Path; from assets.processes.launcher import LocalLauncher, Process
LocalLauncher(grace_s=float(sys.argv[2])).run(Process([sys.executable, *sys.argv[3:]], Path(sys.argv[1])))
"""


def caller(log: Path, grace_s: float, *arguments: str) -> subprocess.Popen[str]:
    """A process that launches an act and has seen its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(log), str(grace_s), *ACT[1:], *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("victim", ["caller", "supervisor", "stage"])
def test_nothing_outlives_sigkill(tmp_path: Path, victim: str) -> None:
    """Of the caller: all ends, also what ignores SIGTERM. Of the supervisor or the stage: the caller says so."""
    mark = f"mark-{os.getpid()}-warm-{victim}"
    process = caller(tmp_path / "log", 0.5, "start", mark, "300")
    parent = {pid for pid in descendants(process.pid) if b"warm_parent" in _line(pid)}
    assert len(parent) == 1
    stage = [pid for pid in marked(mark) if _line(pid).split(b" ")[:1] != [b"supervisor.py"] and b"acts" in _line(pid)]
    if victim == "caller":
        process.kill()
    elif victim == "supervisor":
        (supervisor,) = (pid for pid in marked(mark) if _line(pid).startswith(b"supervisor.py"))
        os.kill(supervisor, signal.SIGKILL)
    else:
        os.kill(next(pid for pid in stage if pid != process.pid), signal.SIGKILL)
    process.wait(timeout=60)
    if victim != "supervisor":
        assert wait_until_none(mark) == []
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in parent), 10.0)
    for pid in marked(mark):  # what had a killed supervisor, as with a cold one
        os.kill(pid, signal.SIGKILL)


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_interrupted_it_may_tidy_up_before_it_ends(tmp_path: Path) -> None:
    process = caller(tmp_path / "log", 30.0, "tidy", str(tmp_path / "tidied"))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert (tmp_path / "tidied").read_text() == "tidy"


def test_without_a_warm_parent_it_is_started_cold(tmp_path: Path) -> None:
    """It is killed, as for its memory: what runs is not disturbed, what comes after starts cold."""
    assert shown(tmp_path / "a")["warm"]
    assert warm_start._parent
    warm_start._parent.process.kill()
    warm_start._parent.process.wait()
    try:
        assert not shown(tmp_path / "b")["warm"]
    finally:
        warm_start._parent = None
    assert shown(tmp_path / "c")["warm"]


def test_several_processes_share_the_parent_that_one_above_them_keeps(tmp_path: Path) -> None:
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    given = {name: value for name, value in os.environ.items() if name != warm_start.SHARED}
    given["PYTHONPATH"] = str(Path.cwd())
    with warm_start.keep_warm(warm_start.stage_environment(given)) as shared:
        for number, folder in enumerate((tmp_path / "a", tmp_path / "b")):
            folder.mkdir()
            env = given | shared | {"DAGSTER_RUN": str(number)}
            command = [sys.executable, "-c", CALLER, "log", "0.5", *ACT[1:], "show"]
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
            found = json.loads(done.stdout.splitlines()[-1])
            assert (found["warm"], found["folder"]) == (True, str(folder))
    assert shared
    assert not Path(shared[warm_start.SHARED]).exists()
    assert shown(tmp_path / "alone", shared)["warm"], "a parent that has ended is no hindrance"


def test_a_caller_killed_while_the_parent_imports_leaves_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CALLER, str(tmp_path / "log"), "0.5", *ACT[1:], "say", "0"]
    process = subprocess.Popen(command, start_new_session=True)
    (parent,) = wait_for(lambda: [pid for pid in descendants(process.pid) if b"processes.warm_parent" in _line(pid)])
    process.kill()
    process.wait()
    assert wait_for(lambda: not Path(f"/proc/{parent}").exists(), 5.0)
