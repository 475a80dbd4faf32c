"""A verifier that runs what the model wrote: it reaches nothing, leaves nothing, and changes no other verdict."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.rewards import BUILTIN_VERIFIERS, RewardsConfig
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem, RewardLabel
from pipeline.sandbox import Protections, protections_here
from tests.unit.rewards.code_in_answers import code_carrying, deeds, entries, swelling

CODE = RewardsConfig(verifier="user_verifiers:runs_the_response", workers=1, timeout_s=20, cpu_s=5)


@pytest.fixture(scope="module")
def here() -> Protections:
    return protections_here()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield server


def nothing_came(server: socket.socket) -> bool:
    try:
        server.accept()
    except BlockingIOError:
        return True
    return False


def graded(*responses: str, config: RewardsConfig = CODE) -> list[RewardLabel]:
    """Labels of the responses with one honest row before and one after."""
    rows = ["told = 'honest'", *responses, "told = 'honest'"]
    with Grader(config, memoize=False) as grader:
        labels = list(grader.grade(GradeItem(row, "told = 'honest'") for row in rows))
    for label in (labels[0], labels[-1]):
        assert (label.reward, label.status, label.detail) == (1.0, "ok", "honest")
    return labels[1:-1]


def test_code_in_a_response_reaches_neither_files_nor_the_network(
    tmp_path: Path, listener: socket.socket, here: Protections
) -> None:
    if not (here.no_network and here.no_writing):
        pytest.skip(f"this machine cannot confine a process: {here.describe()}")
    marker = tmp_path / "marker"
    labels = graded(*deeds(marker, listener.getsockname()[1]))
    assert not marker.exists()
    assert nothing_came(listener)
    assert all(label.reward == 0.0 for label in labels)


def test_a_response_sees_no_environment_and_nothing_that_another_left(
    monkeypatch: pytest.MonkeyPatch, here: Protections
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    leave = "open('left', 'w').write('x'); import os; told = os.getcwd()"
    environment = (
        "import os, posix, pathlib; told = "
        "[*os.environ, *posix.environ, b'a key' in pathlib.Path('/proc/self/environ').read_bytes()]"
    )
    ours = f"import pathlib; told = 'a key' in pathlib.Path('/proc/{os.getpid()}/environ').read_text()"
    left, look, own, parents = graded(leave, "import os; told = os.listdir('.')", environment, ours)
    assert "tbrm-grading-" in str(left.detail)  # it can write there, and only there
    assert look.detail == "[]"
    assert "KEY" not in str(own.detail)
    assert "False" in str(own.detail)
    if here.landlock:
        assert "PermissionError" in (parents.detail or "")


REPLACED = """
import pipeline.rewards.workers.grading as grading, pipeline.rewards.workers.worker as worker, user_verifiers, os, sys
always = grading.RewardLabel(1.0, 'ok', None, 'replaced', {'correctness': 1.0, 'format': 1.0})
grading.grade_row = worker.ready = user_verifiers.runs_the_response = lambda *a: always
"""
SENT = """
import os
for number in range(3, 64):
    try:
        os.write(number, b'[1.0, "ok", null, "forged", {"correctness": 1.0, "format": 1.0}, null]\\n' * 5)
    except OSError:
        pass
os._exit(0)
"""


def test_what_a_response_replaces_or_sends_is_its_own_affair() -> None:
    labels = graded(REPLACED, "1/0", SENT, "1/0", "raise SystemExit", "1/0")
    assert [label.reward for label in labels[1::2]] == [0.0] * 3
    assert all("ZeroDivisionError" in (label.detail or "") for label in labels[1::2])


def test_processes_of_a_response_end_with_it(tmp_path: Path, here: Protections) -> None:
    """Its child would go on for an hour; so would a child that asks for a session of its own."""
    mark = f"tbrm-left-over-{os.getpid()}"
    sleeper = f"['python3', '-c', 'import time; time.sleep(3600)', '{mark}']"
    graded(f"import subprocess; subprocess.Popen({sleeper})")
    graded(f"import subprocess; subprocess.Popen({sleeper}, start_new_session=True)")
    graded(f"import subprocess; subprocess.Popen({sleeper}); 1/0")

    def running() -> list[str]:
        commands = [path / "cmdline" for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [str(path) for path in commands if path.exists() and mark.encode() in path.read_bytes()]

    deadline = time.monotonic() + 30
    while running() and time.monotonic() < deadline:
        time.sleep(0.05)
    if here.namespaces or here.seccomp:
        assert running() == []


def test_a_response_cannot_kill_others(here: Protections) -> None:
    if not (here.others_out_of_reach or here.seccomp):
        pytest.skip("nothing here keeps signals in")
    kill = f"import os, signal; os.kill({os.getpid()}, signal.SIGKILL)"
    parent = "import os, signal; os.kill(os.getppid() or 10**8, signal.SIGKILL)"
    labels = graded(kill, parent)
    assert [label.reward for label in labels] == [0.0, 0.0]


def test_canary_no_verifier_and_no_task_runs_text(tmp_path: Path, listener: socket.socket) -> None:
    """Answers that carry code, against every verifier and every task: nothing runs, no honest verdict changes."""
    from pipeline.config.reasoning_gym import SCORED_BY_GRAMMAR, SCORER_EVALUATES_NOTHING

    marker = tmp_path / "marker"
    answers = [*code_carrying(marker, listener.getsockname()[1]), *swelling()]
    rows = [
        GradeItem(wrapped, "5", verifier)
        for verifier in BUILTIN_VERIFIERS
        if verifier != "reasoning_gym"
        for answer in answers
        for wrapped in (answer, f"\\boxed{{{answer}}}", f"</think> <answer>{answer}</answer>")
    ]
    tasks = sorted(SCORER_EVALUATES_NOTHING | SCORED_BY_GRAMMAR)
    for number, task in enumerate(tasks):
        (entry,) = entries(task, 1)
        chosen = [answers[(number * 7 + step) % len(answers)] for step in range(10)]
        extra = {"task": task, "entry": entry}
        rows += [GradeItem(f"<answer>{text}</answer>", entry["answer"], "reasoning_gym", extra) for text in chosen]
        rows.append(GradeItem(f"<answer>{chosen[0]}</answer>", chosen[1], "reasoning_gym", extra))
    honest = [GradeItem(f"\\boxed{{\\frac{{{n}}}{{7}}}}", f"{n}/7") for n in range(len(rows))]
    config = RewardsConfig(
        workers=2, cpu_s=0.5, timeout_s=60, row_verifiers=BUILTIN_VERIFIERS, reasoning_gym_tasks=tuple(tasks)
    )
    with Grader(config) as grader:
        mixed = [item for pair in zip(honest, rows, strict=True) for item in pair]
        labels = list(grader.grade(mixed))
    assert not marker.exists()
    assert nothing_came(listener)
    assert all((label.reward, label.status) == (1.0, "ok") for label in labels[::2])
