"""Runs the parts one after the other, each in a process of its own with a time limit, and keeps every answer."""

import contextlib
import importlib
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_TAIL_LINES = 25
_REHEARSAL_LIMIT_S = 240.0
_PRELOADED = ("transformers.models.qwen2.modeling_qwen2", "trainer.stages.train", "trainer.engine.models", "deepspeed")
ENVIRONMENT = {
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # torch looks for a GPU without touching it, so that children may be forked
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}


@dataclass(frozen=True)
class Part:
    """A question to the GPU. `limit_s` is the longest it may take; it is not started with less than `least_s` left."""

    number: str
    name: str
    function: str
    """`module:function`, a generator of answers."""
    limit_s: float
    least_s: float = 15.0


PARTS = (
    Part("1", "fork", "benchmarks.gpu.start:fork", 45),
    Part("2", "trainer-tests", "benchmarks.gpu.start:trainer_tests", 120, 40),
    Part("3", "head", "benchmarks.gpu.kernels:head", 60),
    Part("4", "attention", "benchmarks.gpu.kernels:attention", 60),
    Part("5a", "update-tbrm", "benchmarks.gpu.updates:tbrm", 90, 40),
    Part("5b", "update-ppo", "benchmarks.gpu.updates:ppo", 120, 40),
    Part("5c", "update-grpo", "benchmarks.gpu.updates:grpo", 120, 40),
    Part("5d", "whole-job", "benchmarks.gpu.updates:whole_job", 120, 40),
    Part("5e", "micro-batches", "benchmarks.gpu.updates:micro_batches", 90, 40),
    Part("6", "longest", "benchmarks.gpu.updates:longest", 90, 40),
    Part("7", "reference", "benchmarks.gpu.reference:reference", 60, 30),
    Part("8", "learning", "benchmarks.gpu.learning:learning", 120, 60),
    Part("9", "lora", "benchmarks.gpu.updates:lora", 90, 45),
)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch
    import transformers

    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "cores": len(os.sched_getaffinity(0)),
    }
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        found["device"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["device"] = f"CPU ({platform.machine()})"
    return found


def chosen(only: list[str]) -> list[Part]:
    """The parts that `only` names by the start of their number or name; all without it."""
    found = [p for p in PARTS if not only or any(p.number.startswith(o) or p.name.startswith(o) for o in only)]
    if not found:
        raise SystemExit(f"--only {' '.join(only)}: no such part; parts are {', '.join(p.name for p in PARTS)}")
    return found


def run_all(parts: list[Part], out: Path, work: Path, budget_s: float, rehearse: bool) -> dict[str, Any]:
    """Run the parts one after the other; returns what the result file holds at the end."""
    started = time.monotonic()
    result: dict[str, Any] = {"machine": machine(), "rehearsal": rehearse, "parts": {}}

    def keep(part: Part, row: dict[str, Any]) -> None:
        result["parts"][part.name] = {"number": part.number, **row}
        result["seconds"] = round(time.monotonic() - started, 1)
        temporary = out.with_name(f"_tmp.{out.name}")
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        temporary.replace(out)

    for part in parts:
        left = budget_s - (time.monotonic() - started)
        limit = _REHEARSAL_LIMIT_S if rehearse else part.limit_s
        if left < part.least_s:
            keep(part, {"state": "left out", "why": f"{left:.0f} s were left of {budget_s:.0f}"})
            continue
        say(f"{part.number} {part.name} …")
        # The first part asks whether a forked process may use the GPU. Only then are the others forked, which saves
        # the imports of each.
        forked = result["parts"].get(PARTS[0].name, {}).get("state") == "ok"
        row = run_part(part, work, min(limit, left), rehearse, forked, lambda row, part=part: keep(part, row))
        keep(part, row)
        say(f"{part.number} {part.name}: {row['state']} after {row['seconds']} s {json.dumps(row.get('answer'))[:400]}")
    return result


def run_part(
    part: Part, work: Path, limit_s: float, rehearse: bool, forked: bool, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run one part in a process group of its own, ended after `limit_s`; `keep` gets what is there so far."""
    answer, log = work / f"{part.name}.json", work / f"{part.name}.log"
    answer.unlink(missing_ok=True)
    started = time.monotonic()
    child = (_Forked if forked else _Started)(part.name, part.function, work, rehearse, log)
    while (code := child.code()) is None and time.monotonic() - started <= limit_s:
        time.sleep(0.2)
        keep({"state": "running", "answer": _read(answer)})
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    row: dict[str, Any] = {"state": "out of time" if code is None else "ok" if code == 0 else "failed"}
    row |= {"answer": _read(answer), "seconds": round(time.monotonic() - started, 1)}
    if row["state"] != "ok":
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        row["log"] = lines[-_TAIL_LINES:]
    return row


class _Started:
    """A part in a fresh interpreter."""

    def __init__(self, name: str, function: str, work: Path, rehearse: bool, log: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, function, "--work", str(work)]
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                command + (["--rehearse"] if rehearse else []),
                cwd=ROOT,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._child.pid

    def code(self) -> int | None:
        return self._child.poll()


class _Forked:
    """A part forked from a process that has imported torch, transformers and DeepSpeed and never touched the GPU."""

    def __init__(self, name: str, function: str, work: Path, rehearse: bool, log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOADED))
        self._child = context.Process(target=answer_forked, args=(name, function, work, rehearse, log))
        self._child.start()
        self.pid = self._child.pid or 0

    def code(self) -> int | None:
        return self._child.exitcode


def answer_forked(name: str, function: str, work: Path, rehearse: bool, log: Path) -> None:
    """In a forked child: a session of its own, output to `log`, then the part."""
    os.setsid()
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    answer_part(name, function, work, rehearse)


def answer_part(name: str, function: str, work: Path, rehearse: bool) -> None:
    """In the child: run the part, and write its answers so far after each of them."""
    from benchmarks.gpu.shapes import PUBLISHED, REHEARSAL

    module, _, attribute = function.partition(":")
    ask: Callable[..., Iterator[dict[str, Any]]] = getattr(importlib.import_module(module), attribute)
    answers: dict[str, Any] = {}
    for more in ask(REHEARSAL if rehearse else PUBLISHED, work):
        answers |= more
        temporary = work / f"_tmp.{name}.json"
        temporary.write_text(json.dumps(answers), encoding="utf-8")
        temporary.replace(work / f"{name}.json")


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
