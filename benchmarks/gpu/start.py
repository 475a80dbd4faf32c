"""Parts 1 and 2: a fork after the imports can use the GPU; the trainer's own tests, and a job on this device."""

import dataclasses
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.shapes import Sizes, job_of
from pipeline.scoring.batch import Trajectory

ROOT = Path(__file__).resolve().parents[2]
_UPDATES = 4


def fork(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """What vLLM's engine core does where it forks: use the GPU in a child of a process that imported our stages.

    CUDA cannot be used in a child if the parent has initialized it, and even a look at `torch.cuda.is_available()`
    counts unless torch was told to look through NVML.
    """
    for module in (
        "pipeline.sampling.engines.transformers_engine",
        "pipeline.reference",
        "trainer.stages.train",
        "trainer.engine.models",
    ):
        importlib.import_module(module)
    initialized = torch.cuda.is_initialized()
    yield {"nvml_check": os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK"), "cuda_initialized_by_imports": initialized}
    context = multiprocessing.get_context("fork")
    answers: Any = context.SimpleQueue()
    child = context.Process(target=_use_device, args=(answers,))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
        raise RuntimeError("the forked child did not end within 60 s")
    result = answers.get() if not answers.empty() else f"no answer, exit code {child.exitcode}"
    yield {"forked_child": result}
    if result != "ok":
        raise RuntimeError(f"a forked child cannot use the device: {result}")


def _use_device(answers: Any) -> None:
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(0)
            on_device = torch.ones(8, device="cuda")
        else:
            on_device = torch.ones(8)
        answers.put("ok" if float(on_device.sum()) == 8 else "wrong sum")
    except RuntimeError as error:
        answers.put(str(error).splitlines()[0])


def trainer_tests(sizes: Sizes, work: Path) -> Iterator[dict[str, Any]]:
    """The trainer's unit tests under this machine's torch and transformers, then one job on the device and on the CPU.

    Both jobs train the same tiny policy in fp32 on the same trajectories; the device's uses NCCL, the CPU's gloo.
    """
    tests = [str(ROOT / "tests" / "unit" / "trainer")]
    if sizes.generations <= 2:  # the rehearsal runs inside the test suite, which runs all of them anyway
        tests = [f"{tests[0]}/test_head.py", f"{tests[0]}/test_packing.py"]
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider", *tests]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)}
    failures = re.findall(r"^(?:FAILED|ERROR) (.+)$", done.stdout, re.M)
    if not counts:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    yield {"unit_tests": counts, "seconds": round(time.perf_counter() - started, 1), "failures": failures[:20]}
    losses = {name: _losses(work / f"job-{name}", on_cpu=name == "cpu") for name in ("device", "cpu")}
    yield {f"losses_{name}": values for name, values in losses.items()}
    difference = float(np.abs(np.subtract(losses["device"], losses["cpu"])).max() / np.abs(losses["cpu"]).max())
    yield {"relative_difference_of_losses": difference}
    if counts.get("failed", 0) + counts.get("error", 0):
        raise RuntimeError(f"unit tests of the trainer fail on this machine: {', '.join(failures[:5])}")
    if not difference < 1e-3:
        raise RuntimeError(f"the job's losses on the device and on the CPU differ by {difference:.2g}")


def _losses(folder: Path, on_cpu: bool) -> list[float]:
    """Losses of a tiny job in a process of its own; on the CPU in a fresh one, which has not seen the GPU."""
    folder.mkdir(parents=True, exist_ok=True)
    if on_cpu:
        script = f"from benchmarks.gpu.start import train_tiny; train_tiny({str(folder)!r})"
        env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the job on the CPU failed:\n{done.stderr[-2000:]}")
    else:
        child = multiprocessing.get_context("fork").Process(target=train_tiny, args=(str(folder),))
        child.start()
        child.join()
        if child.exitcode:
            raise RuntimeError(f"the job on the device ended with exit code {child.exitcode}")
    return json.loads((folder / "losses.json").read_text(encoding="utf-8"))


def train_tiny(folder: str) -> None:
    """Train a tiny policy for a few updates through `train_policy`; the loss of each goes to losses.json."""
    from pipeline.config.policy import PolicyConfig
    from pipeline.policies.tiny import save_tiny_arith
    from trainer.data.trajectories import SCHEMA, write_trajectories
    from trainer.loop.worker import train_policy

    state = Path(folder)
    save_tiny_arith(state / "start", 0)
    job = job_of(state / "start", state, objective="tbrm", prompt_batch=8, learning_rate=3e-4, micro_batch_tokens=128)
    job = dataclasses.replace(job, updates=_UPDATES, model=PolicyConfig(base="tiny", dtype="float32"))
    write_trajectories([_table(SCHEMA)], job.training, state)
    losses = [row["loss"] for row in train_policy(job).metrics]
    (state / "losses.json").write_text(json.dumps(losses), encoding="utf-8")


def _table(schema: Any) -> Any:
    import pyarrow as pa

    rng = np.random.default_rng(0)
    rows: list[Trajectory] = []
    for i in range(64):
        size = int(rng.integers(1, 8))
        ids = rng.integers(3, 13, size).astype(np.int32)
        reference = (-2.9 + 0.1 * rng.standard_normal(size)).astype(np.float32)
        prompt = rng.integers(3, 13, 6).astype(np.int32)
        rows.append(Trajectory(f"t{i}", f"p{i // 4}", prompt, ids, np.ones(size, bool), float(i % 2), reference))
    count = len(rows)
    return pa.table(
        {
            "trajectory_id": [t.trajectory_id for t in rows],
            "prompt_id": [t.prompt_id for t in rows],
            "prompt_token_ids": [t.prompt_ids for t in rows],
            "response_token_ids": [t.response_ids for t in rows],
            "response_mask": pa.nulls(count, pa.list_(pa.bool_())),
            "finish_reason": ["stop"] * count,
            "behavior_logprobs": [t.ref_logprobs for t in rows],
            "reward": [t.reward for t in rows],
            "token_rewards": pa.nulls(count, pa.list_(pa.float32())),
            "ref_token_logprobs": [t.ref_logprobs for t in rows],
            "ref_value_first": [3.0] * count,
            "source": ["generation"] * count,
            "lag": [0] * count,
            "group": [t.prompt_id for t in rows],
        }
    ).cast(schema)
