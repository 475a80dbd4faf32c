"""No process of a stage outlives it, whatever happens to the stage or to its caller."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assets.processes.launcher import LocalLauncher, Process
from assets.processes.supervisor import __file__ as supervisor
from assets.processes.supervisor import descendants

# Starts a grandchild in a session of its own (as torchrun does) that ignores SIGTERM, then sleeps.
STUBBORN = """
import subprocess, sys, time, signal
code = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print(1, flush=True); time.sleep(300)"
command = [sys.executable, "-S", "-c", code, sys.argv[1]]
child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
"""


def marked(mark: str) -> list[int]:
    """Processes whose command line holds `mark`, this one excepted."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in entry.read_bytes().decode(errors="replace") and int(entry.parent.name) != os.getpid():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def wait_until_none(mark: str, timeout_s: float = 10.0) -> list[int]:
    deadline = time.monotonic() + timeout_s
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    return marked(mark)


_PROC = Path("/proc/self/stat")
pytestmark = pytest.mark.skipif(not _PROC.exists(), reason="the process tree is read from Linux's /proc")


def test_output_and_exit_status_come_back(tmp_path: Path) -> None:
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    ended = LocalLauncher().run(Process([sys.executable, "-c", code], tmp_path / "log"))
    assert (ended.code, ended.tail, ended.killed) == (3, ("one", "two"), False)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_a_killed_stage_is_told_apart(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    ended = LocalLauncher().run(Process(command, tmp_path / "log"))
    assert ended.code == 137
    assert ended.killed


def test_threads_are_set_deliberately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    show = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    assert LocalLauncher(threads=7).run(Process(show, tmp_path / "a")).tail == ("7",)
    cores = len(os.sched_getaffinity(0))
    assert LocalLauncher().run(Process(show, tmp_path / "b", workers=2)).tail == (str(max(1, cores // 2)),)


def test_what_a_stage_leaves_behind_is_ended(tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}-left"
    ended = LocalLauncher().run(Process([sys.executable, "-c", STUBBORN, mark, "0"], tmp_path / "log"))
    assert ended.code == 0
    assert marked(mark) == []


def test_nothing_outlives_a_caller_killed_with_sigkill(tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}-orphan"
    caller = f"""
import sys; from pathlib import Path; from assets.processes.launcher import LocalLauncher, Process
command = [sys.executable, "-c", {STUBBORN!r}, {mark!r}, "300"]
LocalLauncher(grace_s=0.5).run(Process(command, Path({str(tmp_path / "log")!r})))
"""
    process = subprocess.Popen([sys.executable, "-c", caller], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    assert len(marked(mark)) >= 3
    process.kill()
    process.wait()
    assert wait_until_none(mark) == []


def test_terminate_ends_grandchildren_that_ignore_it(tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}-term"
    read_end, write_end = os.pipe()
    command = [
        sys.executable,
        "-I",
        "-S",
        supervisor,
        str(read_end),
        "0.5",
        sys.executable,
        "-c",
        STUBBORN,
        mark,
        "300",
    ]
    process = subprocess.Popen(command, pass_fds=(read_end,), stdout=subprocess.PIPE, start_new_session=True)
    os.close(read_end)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    os.close(write_end)
    assert wait_until_none(mark) == []


# Its first thread ends, another one lives on: a zombie for /proc that still has a child.
HALF_ENDED = """
import ctypes, subprocess, sys, threading, time
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)", sys.argv[1]])
threading.Thread(target=time.sleep, args=(300,)).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall(60, 0)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the system call is x86's")
def test_children_of_a_process_that_is_half_ended_are_found() -> None:
    mark = f"mark-{os.getpid()}-half"
    process = subprocess.Popen([sys.executable, "-c", HALF_ENDED, mark], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    while (Path("/proc") / str(process.pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    found = [pid for pid in marked(mark) if pid != process.pid]
    assert len(found) == 1
    assert found[0] in descendants(os.getpid())
    os.kill(found[0], signal.SIGKILL)
    process.kill()
    process.wait()
