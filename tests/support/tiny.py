"""A very small experiment, real in every stage, for tests of the orchestration."""

import atexit
import contextlib
import functools
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from assets.processes.warm_start import SHARED, keep_warm, stage_environment
from tests.support.forked_tbrm import Forked, start

TINY = """
name: tiny
seed: 3
generations: {generations}
policy:
  base: builtin:tiny-arith
  dtype: float32
  warm_start: {{logged: tiny_behaviour, trajectories: 512, steps: 8, batch: 64}}
prompts: {{source: arithmetic, template: raw, per_generation: {prompts}}}
rollouts: {{engine: transformers, n: 2, max_tokens: 5, prompts_per_shard: 16, batch_size: 64}}
training: {{beta: 0.01, learning_rate: 3.0e-4, prompt_batch: 8, updates_per_generation: 2}}
"""
SMALLER = {
    "generations": 2,
    "policy.warm_start.trajectories": 2048,
    "policy.warm_start.steps": 100,
    "prompts.per_generation": 32,
    "prompts.arithmetic.heldout": 32,
    "rollouts.prompts_per_shard": 16,
    "training.prompt_batch": 16,
    "training.updates_per_generation": 2,
}
"""What makes `arith_tiny` small enough for a test."""
SMALLEST = SMALLER | {"generations": 1, "policy.warm_start.trajectories": 512, "policy.warm_start.steps": 8}


def write_tiny(folder: Path, generations: int = 2, prompts: int = 16, name: str = "tiny") -> Path:
    """`experiments/<name>.yaml` in `folder`."""
    path = folder / "experiments" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TINY.format(generations=generations, prompts=prompts).replace("name: tiny", f"name: {name}"))
    return path


def set_options(fields: Mapping[str, object]) -> list[str]:
    """`--set` for each field, as `tbrm run` takes it."""
    return [word for field, value in fields.items() for word in ("--set", f"{field}={value}")]


@functools.cache
def one_thread_from_a_warm_parent() -> dict[str, str]:
    """Variables of what the tests start: one thread, and stages from one warm parent for all tests of this process."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    one_thread = {"OMP_NUM_THREADS": "1"}
    given = {name: value for name, value in os.environ.items() if name != SHARED}
    return one_thread | stack.enter_context(keep_warm(stage_environment(given | one_thread)))


def tbrm(folder: Path, *arguments: str) -> Forked:
    """Start a `tbrm` command in `folder`, without a Dagster home from outside."""
    env = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "TBRM_ROOT")}
    return start(arguments, folder, env | one_thread_from_a_warm_parent())


def listen_to_ctrl_c() -> None:
    """Also where the tests themselves run in a shell's background, which has its children ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: Forked, timeout_s: float = 600.0) -> str:
    """Output of a command that must succeed."""
    output, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, output
    return output
