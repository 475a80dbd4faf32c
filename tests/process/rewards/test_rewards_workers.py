"""Whatever a response does to a worker, and whoever kills it: one row is charged, no row is lost."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import pytest

from pipeline.config.rewards import RewardsConfig
from pipeline.errors import TbrmError
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem, RewardLabel
from pipeline.rewards.workers import pool
from tests.support.hostile_responses import hostile_items

HERE = Path(__file__).parent


def honest(count: int) -> list[GradeItem]:
    return [GradeItem(f"\\boxed{{\\frac{{{i}}}{{7}}}}", f"{i}/7") for i in range(count)]


def test_200_hostile_responses_each_get_a_status_and_harm_no_other_row() -> None:
    bad = hostile_items()
    assert len(bad) == 200
    items = [item for pair in zip(honest(200), bad, strict=True) for item in pair]
    config = RewardsConfig(cpu_s=0.2, timeout_s=20, memory_mb=512)
    with Grader(config) as grader:
        labels = list(grader.grade(items))
    assert all(label.reward == 1.0 and label.status == "ok" for label in labels[::2])
    counts = Counter(label.status for label in labels[1::2])
    assert set(counts) <= {"ok", "wrong_format", "timeout", "memory", "error"}
    assert counts["timeout"] >= 40  # towers of exponents and sums at least
    assert all(label.reward == 0.0 and label.detail for label in labels[1::2] if label.status == "timeout")


@pytest.mark.parametrize(
    ("deed", "status", "reason"),
    [
        ("spin", "timeout", "processor time"),
        ("sleep", "timeout", "wall time"),
        ("allocate", "memory", "memory limit"),
        ("allocate slowly", "memory", "memory limit"),
        ("abort", "memory", "memory limit"),
        ("kill", "memory", "memory limit"),
        ("exit", "error", "exit code 0"),
        ("raise", "error", "Unpicklable: 1 and 2"),
        ("nan", "error", "not finite"),
        ("nonsense", "error", "returned object"),
    ],
)
def test_a_verifier_that_misbehaves_costs_one_row(deed: str, status: str, reason: str) -> None:
    wall = 1.0 if reason == "wall time" else 30.0
    config = RewardsConfig(
        verifier="user_verifiers:misbehave",
        workers=1,
        cpu_s=0.3,
        timeout_s=wall,
        memory_mb=256,
        batch=5,
        timeout_reward=-1.0,
    )
    items = [GradeItem(str(i), str(i)) for i in range(12)]
    items[6] = GradeItem(deed, "1")
    with Grader(config) as grader:
        labels = list(grader.grade(items))
    assert labels[6].status == status
    assert reason in (labels[6].detail or "")
    assert labels[6].reward == -1.0
    assert [label.reward for label in labels[:6] + labels[7:]] == [1.0] * 11


def test_a_worker_computes_with_one_thread_where_a_user_says_nothing() -> None:
    with Grader(RewardsConfig(verifier="user_verifiers:told_threads", workers=1)) as grader:
        (label,) = grader.grade([GradeItem("1", "1")])
    assert label.extracted_answer == os.environ.get("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("verifier", ["slow_to_import:equal", "math_verify"])
def test_no_row_pays_for_the_start_of_its_worker(verifier: str) -> None:
    items = [GradeItem(f"\\boxed{{\\frac{{{i}}}{{7}}}}", f"\\boxed{{\\frac{{{i}}}{{7}}}}") for i in range(1, 5)]
    config = RewardsConfig(verifier=verifier, workers=1, cpu_s=0.1, timeout_s=60, batch=1)
    with Grader(config) as grader:
        assert [label.reward for label in grader.grade(items)] == [1.0] * 4


def _workers() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid and "pebble" in child.name]


def test_killing_workers_at_any_time_loses_no_row() -> None:
    items = honest(1_500)
    stop = threading.Event()
    found: list[RewardLabel] = []

    def killer() -> None:
        """25 kills at random moments, and no more than 6 without a row graded in between, however slow the machine."""
        dice = random.Random(0)
        kills = since = graded = 0
        while kills < 25 and not stop.wait(dice.uniform(0.01, 0.15)):
            if len(found) > graded:
                since, graded = 0, len(found)
            for pid in _workers():
                if dice.random() < 0.5 and since < 6:
                    os.kill(pid, signal.SIGKILL)
                    kills, since = kills + 1, since + 1

    with Grader(RewardsConfig(workers=2, batch=16), memoize=False) as grader:
        thread = threading.Thread(target=killer)
        labels = grader.grade(items)
        found.append(next(labels))
        thread.start()
        try:
            found.extend(labels)
        finally:
            stop.set()
            thread.join()
    # A row that was alone with its worker when it was killed, twice, says so; it is not called wrong.
    assert len(found) == len(items)
    assert {label.status for label in found} <= {"ok", "memory"}
    assert all(label.reward == 1.0 for label in found if label.status == "ok")
    assert sum(label.status == "ok" for label in found) > len(items) - 13


def test_idle_workers_that_are_killed_are_replaced() -> None:
    with Grader(RewardsConfig(workers=2), memoize=False) as grader:
        for _ in range(3):
            assert [label.reward for label in grader.grade(honest(3))] == [1.0] * 3
            for pid in _workers():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.3)


def test_a_task_that_is_lost_with_its_worker_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker killed between taking a task and saying so leaves a task that never ends."""
    monkeypatch.setattr(pool, "STALLED_S", 0.5)
    monkeypatch.setattr(pool, "SLOWEST_IMPORT_S", 0.0)
    schedule = pool.ProcessPool.schedule
    lost: list[Future[object]] = []

    def losing(*args: object, **kwargs: object) -> Future[object]:
        if not lost:
            lost.append(Future())
            return lost[0]
        return schedule(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(pool.ProcessPool, "schedule", losing)
    with Grader(RewardsConfig(workers=1, timeout_s=3.0, batch=4), memoize=False) as grader:
        assert [label.reward for label in grader.grade(honest(20))] == [1.0] * 20
    assert lost


def test_workers_that_cannot_start_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "REBUILDS", 3)
    monkeypatch.setattr(pool, "start_worker", os.abort)
    with Grader(RewardsConfig(workers=1)) as grader, pytest.raises(TbrmError, match="die as soon as they start"):
        list(grader.grade(honest(2)))


def test_grading_works_in_a_thread_and_beside_torch_threads() -> None:
    import torch

    torch.ones(64, 64) @ torch.ones(64, 64)
    labels: list[float] = []

    def work() -> None:
        with Grader(RewardsConfig(workers=1)) as grader:
            labels.extend(label.reward for label in grader.grade(honest(5)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=120)
    assert labels == [1.0] * 5


def test_a_script_without_a_main_guard_is_not_run_again_by_its_workers(tmp_path: Path) -> None:
    script = tmp_path / "bare.py"
    script.write_text(
        "from pipeline.config.rewards import RewardsConfig\n"
        "from pipeline.rewards.grader import Grader\n"
        "from pipeline.rewards.types import GradeItem\n"
        "print('started', flush=True)\n"
        "with Grader(RewardsConfig(workers=2)) as grader:\n"
        "    print([label.reward for label in grader.grade([GradeItem('\\\\boxed{2/4}', '1/2')])])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["started", "[1.0]"]


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "spin.py"
    script.write_text(
        "import sys, threading, time\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "def main():\n"
        "    import multiprocessing\n"
        "    from pipeline.config.rewards import RewardsConfig\n"
        "    from pipeline.rewards.grader import Grader\n"
        "    from pipeline.rewards.types import GradeItem\n"
        "    config = RewardsConfig(verifier='user_verifiers:misbehave', workers=2, cpu_s=1.0)\n"
        "    with Grader(config) as grader:\n"
        "        next(grader.grade([GradeItem('1', '1')]))\n"
        "        print(*[c.pid for c in multiprocessing.active_children()], flush=True)\n"
        "        list(grader.grade([GradeItem('spin', '1')] * 1 + [GradeItem(f'{i}', '1') for i in range(64)]))\n"
        "        time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_fork_server_of_somebody_else_keeps_its_environment(tmp_path: Path) -> None:
    """Ours starts itself anew without one; the studies have another, which imports the grader as well."""
    script = tmp_path / "other.py"
    script.write_text(
        "import multiprocessing, os\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    context.set_forkserver_preload(['pipeline.rewards.grader'])\n"
        "    os.environ['OF_THE_CALLER'] = 'kept'\n"
        "    with ProcessPoolExecutor(1, context) as pool:\n"
        "        print(pool.submit(os.getenv, 'OF_THE_CALLER').result())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["kept"]


def test_grade_command_answers_every_line_of_the_hostile_file_in_order(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from pipeline.cli.grade import grade

    items = hostile_items()[120:160]  # control characters and lone surrogates survive JSON both ways
    file = tmp_path / "hostile.jsonl"
    file.write_text(
        "\n".join(json.dumps({"response": i.response, "answer": i.answer, "n": n}) for n, i in enumerate(items))
    )
    result = CliRunner().invoke(grade, [str(file), "--workers", "1"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["n"] for row in rows] == list(range(40))
    assert all({"reward", "status", "extracted_answer", "detail"} <= row.keys() for row in rows)


def test_grade_command_takes_bytes_that_are_no_text() -> None:
    from click.testing import CliRunner

    from pipeline.cli.grade import grade

    result = CliRunner().invoke(grade, [], input=b'{"response": "\\\\boxed{5} \xff\xfe", "answer": "5"}\n')
    assert json.loads(result.stdout)["reward"] == 1.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ('{"response": "5", "answer": "5", "extra": {"a": ' + "9" * 4_400 + "}}", "line 2 is not JSON"),
        ("[]", "line 2 must be an object"),
        ('{"response": "5"}', "line 2: field `answer`"),
        ('{"response": "5", "answer": 5}', "line 2: field `answer`"),
        ('{"response": "5", "answer": "5", "extra": []}', "line 2: field `extra`"),
        ('{"response": "5", "answer": "5", "verifier": "os:system"}', "rewards.user_verifiers"),
    ],
)
def test_grade_command_names_the_bad_line(line: str, message: str) -> None:
    from click.testing import CliRunner

    from pipeline.cli.grade import grade

    result = CliRunner().invoke(grade, [], input='{"response": "5", "answer": "5"}\n' + line + "\n")
    assert isinstance(result.exception, TbrmError)
    assert message in str(result.exception)
