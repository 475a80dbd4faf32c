"""Studies on trained policies: every arm and seed is one run of the loop, kept by the hash of its settings."""

import contextlib
import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any

from assets.studies.loop import run_generations
from assets.studies.spec import Arm, Size, arm_experiment, base_experiment, base_of, ground_seed, logs_of_seed
from pipeline.errors import TbrmError
from pipeline.logged.labels import run_logged_labels
from pipeline.logged.scripted import write_behaviour_log
from pipeline.policies.load_save import load_tokenizer
from pipeline.policies.refs import PolicyRef, pointer_path, resolve_published
from pipeline.run.environment import environment
from pipeline.run.orphans import die_with_parent
from pipeline.run.progress import send_progress_to
from pipeline.store import Store, open_store
from trainer.stages.base_policy import run_base_policy

_RUNS = "studies"
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Of the runs. With the second, torch looks for a GPU without touching it: where it was touched, none may be forked."""


def run_arms(size: Size, store: Store, workers: int, told: Callable[[str], None]) -> dict[str, Any]:
    """Run what is not finished yet, `workers` runs at a time; every run's rewards by generation.

    A run that diverges (`training.max_residual`) is a result: it is kept with its error.
    """
    started, every = time.monotonic(), len(size.arms) * size.seeds
    with one_thread_processes(workers) as pool:
        grounds = {
            (name, seed): pool.submit(_ground, size, name, seed, store.root)
            for name in size.bases
            for seed in dict.fromkeys(ground_seed(size, name, seed) for seed in range(size.seeds))
        }
        told(f"{len(grounds)} base policies, then {every} runs, {workers} at a time")
        runs = dict[Future[dict[str, Any]], tuple[int, int]]()
        for seed in range(size.seeds):
            bases = {name: grounds[name, ground_seed(size, name, seed)].result() for name in size.bases}
            told(f"base policies of seed {seed}, after {time.monotonic() - started:.0f} s")
            for index, arm in enumerate(size.arms):
                runs[pool.submit(_run, size, arm, seed, bases[base_of(size, arm)], store.root)] = index, seed
        began = time.monotonic()  # runs wait until all base policies are there
        for number, future in enumerate(as_completed(runs), 1):
            index, seed = runs[future]
            last = future.result()["generations"][-1]
            now, done = time.monotonic(), sum(run.done() for run in runs)
            told(
                f"{number} of {every} runs, {now - started:.0f} s, {(now - began) / done * (every - done):.0f} s left. "
                f"{size.arms[index].name}, seed {seed}: policy[{last['generation']}] earns {last['reward']:.3f}"
            )
    arms = [[f.result() for f, (index, _) in runs.items() if index == arm] for arm in range(len(size.arms))]
    return {
        "arms": [
            {"arm": arm.name, "base": base_of(size, arm), "runs": finished}
            for arm, finished in zip(size.arms, arms, strict=True)
        ],
        "cpu_seconds": round(sum(run["cpu_seconds"] for finished in arms for run in finished)),
    }


@contextlib.contextmanager
def one_thread_processes(workers: int) -> Generator[ProcessPoolExecutor]:
    """Fresh processes of one thread, whatever their number: sums are then the same to the last bit.

    A process serves one run, so that the peak memory of a run is its own. It is forked from one that has imported what
    all of them need, a quarter of the time of a run of the tiny policy. Interrupted, what has not begun is dropped.
    """
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(["transformers.models.llama.modeling_llama", __name__])
    with environment(_ENVIRONMENT):
        pool = ProcessPoolExecutor(workers, forked, initializer=_quiet, max_tasks_per_child=1)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _quiet() -> None:
    """Only the study itself says how far it is; what goes wrong in a run comes back as an error."""
    from transformers.utils.logging import disable_progress_bar

    die_with_parent()
    send_progress_to(lambda _: None)
    disable_progress_bar()
    logging.disable(logging.WARNING)


def finished_runs(size: Size, store: Store) -> int:
    """How many of the size's runs are there."""
    found = 0
    for seed in range(size.seeds):
        names = {base: base_experiment(size, base, seed).name for base in size.bases}
        there = {b: name for b, name in names.items() if store.fs.exists(pointer_path(store, name, 0))}
        bases = {base: resolve_published(store, name, 0) for base, name in there.items()}
        arms = [arm for arm in size.arms if base_of(size, arm) in bases]
        runs = (arm_experiment(size, arm, seed, bases[base_of(size, arm)]).name for arm in arms)
        found += sum(store.fs.exists(_result_path(store, name)) for name in runs)
    return found


def _ground(size: Size, name: str, seed: int, root: str) -> PolicyRef:
    """What runs that start together share: their base policy, the logs that they train on, and the labels of these."""
    store, experiment = open_store(root), base_experiment(size, name, seed)
    run_base_policy(experiment, store)
    base = resolve_published(store, experiment.name, 0)
    logs = logs_of_seed(size, name, seed)
    for arm in (arm for arm in size.arms if base_of(size, arm) == name):
        run = arm_experiment(size, arm, seed, base)
        if not run.replay.logged or store.fs.exists(_result_path(store, run.name)):
            continue
        for logged in (source.name for source in run.replay.logged if source.name in logs):
            log, tokenizer = logs[logged], load_tokenizer(base.path)
            write_behaviour_log(experiment, logged, log.trajectories, log.behaviour_accuracy, store, tokenizer)
        # The reference is policy[0] of the run, a copy of the base policy under an identity that all runs share.
        run_base_policy(run, store)
        run_logged_labels(run, store)
    return base


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
