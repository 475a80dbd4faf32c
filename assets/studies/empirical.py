"""Studies on trained policies: every arm and seed is one run of the loop, kept by the hash of its settings."""

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from assets.studies.loop import run_generations
from assets.studies.spec import Arm, Size, arm_experiment, base_experiment
from pipeline.errors import TbrmError
from pipeline.orphans import die_with_parent
from pipeline.policy import PolicyRef, resolve_published
from pipeline.store import Store, open_store
from trainer.base_policy import run_base_policy

_RUNS = "studies"


def run_arms(size: Size, store: Store, workers: int, told: Callable[[str], None]) -> dict[str, Any]:
    """Run what is not finished yet, `workers` runs at a time; every run's rewards by generation.

    A run that diverges (`training.max_residual`) is a result: it is kept with its error.
    """
    with one_thread_processes(workers) as pool:
        made = {name: pool.submit(_base, size, name, store.root) for name in size.bases}
        bases = {name: future.result() for name, future in made.items()}
        first = next(iter(size.bases))
        futures = [
            [pool.submit(_run, size, arm, seed, bases[arm.base or first], store.root) for seed in range(size.seeds)]
            for arm in size.arms
        ]
        names = {
            f: f"{arm.name}, seed {s}" for arm, runs in zip(size.arms, futures, strict=True) for s, f in enumerate(runs)
        }
        for done, future in enumerate(as_completed(names), 1):
            last = future.result()["generations"][-1]
            told(f"{done} of {len(names)}: {names[future]}: policy[{last['generation']}] earns {last['reward']:.3f}")
        arms = [[future.result() for future in runs] for runs in futures]
    return {
        "arms": [
            {"arm": arm.name, "base": arm.base or first, "runs": runs}
            for arm, runs in zip(size.arms, arms, strict=True)
        ],
        "cpu_seconds": round(sum(run["cpu_seconds"] for runs in arms for run in runs)),
    }


@contextlib.contextmanager
def one_thread_processes(workers: int) -> Generator[ProcessPoolExecutor]:
    """Fresh processes of one thread, whatever their number: sums are then the same to the last bit.

    A process serves one run, so that the peak memory of a run is its own. Interrupted, what has not begun is dropped.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    fresh = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, fresh, initializer=die_with_parent, max_tasks_per_child=1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


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


def _base(size: Size, name: str, root: str) -> PolicyRef:
    store, experiment = open_store(root), base_experiment(size, name)
    run_base_policy(experiment, store)
    return resolve_published(store, experiment.name, 0)


def _run(size: Size, arm: Arm, seed: int, base: PolicyRef, root: str) -> dict[str, Any]:
    store, experiment = open_store(root), arm_experiment(size, arm, seed, base)
    path = _result_path(store, experiment.name)
    if store.fs.exists(path):
        return json.loads(store.read_bytes(path)) | {"seed": seed}
    started, error = time.process_time(), None
    rows = list[dict[str, Any]]()
    try:
        for row in run_generations(experiment, store):
            rows.append(row)
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
