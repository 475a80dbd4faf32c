"""Studies on trained policies: every arm and seed is one run of the loop, kept by the hash of its settings."""

import json
import time
from collections.abc import Callable
from typing import Any

from assets.studies.loop import run_generations
from assets.studies.spec import Arm, Size, arm_experiment, base_experiment
from pipeline.errors import TbrmError
from pipeline.policy import PolicyRef, resolve_published
from pipeline.store import Store
from trainer.base_policy import run_base_policy

_RUNS = "studies"


def run_arms(size: Size, store: Store, told: Callable[[str], None]) -> dict[str, Any]:
    """Run what is not finished yet; every run's rewards by generation.

    A run that diverges (`training.max_residual`) is a result: it is kept with its error.
    """
    bases = {name: _base(size, name, store) for name in size.bases}
    first = next(iter(size.bases))
    arms = list[dict[str, Any]]()
    for arm in size.arms:
        runs = [_run(size, arm, seed, bases[arm.base or first], store, told) for seed in range(size.seeds)]
        arms.append({"arm": arm.name, "base": arm.base or first, "runs": runs})
    return {"arms": arms, "cpu_seconds": round(sum(run["cpu_seconds"] for arm in arms for run in arm["runs"]))}


def finished_runs(size: Size, store: Store) -> int | None:
    """How many of the size's runs are there; None while a base policy is missing."""
    try:
        bases = {n: resolve_published(store, base_experiment(size, n).name, 0) for n in size.bases}
    except TbrmError:
        return None
    first = next(iter(size.bases))
    every = ((arm, seed) for arm in size.arms for seed in range(size.seeds))
    names = (arm_experiment(size, arm, seed, bases[arm.base or first]).name for arm, seed in every)
    return sum(store.fs.exists(_result_path(store, name)) for name in names)


def _base(size: Size, name: str, store: Store) -> PolicyRef:
    experiment = base_experiment(size, name)
    run_base_policy(experiment, store)
    return resolve_published(store, experiment.name, 0)


def _run(size: Size, arm: Arm, seed: int, base: PolicyRef, store: Store, told: Callable[[str], None]) -> dict[str, Any]:
    experiment = arm_experiment(size, arm, seed, base)
    path = _result_path(store, experiment.name)
    if store.fs.exists(path):
        return json.loads(store.read_bytes(path)) | {"seed": seed}
    started, error = time.process_time(), None
    rows = list[dict[str, Any]]()
    try:
        for row in run_generations(experiment, store):
            rows.append(row)
            told(f"{arm.name}, seed {seed}: policy[{row['generation']}] earns {row['reward']:.3f}")
    except TbrmError as failure:
        if "max_residual" not in str(failure):
            raise
        error = str(failure)
    result = {"generations": rows, "diverged": error, "cpu_seconds": round(time.process_time() - started, 1)}
    store.fs.makedirs(store.join(_RUNS), exist_ok=True)
    store.write_atomic(path, json.dumps(result).encode())
    store.fs.rm(store.join(experiment.name), recursive=True)  # its numbers are kept, its policies are not needed
    return result | {"seed": seed}


def _result_path(store: Store, run: str) -> str:
    return store.join(_RUNS, f"{run}.json")
