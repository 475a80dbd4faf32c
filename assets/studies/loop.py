"""Studies on trained policies: the loop of one experiment in this process, and every arm and seed of a study by it.

A study's run is kept by the hash of its settings.
"""

import contextlib
import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any

import pyarrow as pa

from assets.experiment.stages import loop
from assets.studies.spec import Arm, Size, arm_experiment, base_experiment, base_of, ground_seed, logs_of_seed
from pipeline.config import Experiment
from pipeline.errors import TbrmError
from pipeline.logged.labels import run_logged_labels
from pipeline.logged.scripted import write_behaviour_log
from pipeline.policies.load_save import load_tokenizer
from pipeline.policies.refs import PolicyRef, pointer_path, resolve_published
from pipeline.run.orphans import die_with_parent
from pipeline.run.progress import duration, send_progress_to
from pipeline.store import Store, open_store
from trainer.engine.deepspeed import environment
from trainer.stages.base_policy import run_base_policy

_TRAINED = (
    *("value_first", "residual_abs", "grad_norm", "peak_memory_gb", "seconds", "seconds_rollout", "seconds_ref_prob"),
    *("seconds_old_prob", "seconds_ppo_value", "seconds_ppo_update_value", "seconds_update_policy", "control_cosine"),
)
"""Of a training; `seconds_*` are the paper's time segments (Fig. 2b)."""
KEPT = {
    "rewards": {"reward_mean": "reward"},
    "ref_logprobs": {"behaviour_kl": "kl"},
    "trained_policy": {name: name for name in _TRAINED},
}
"""By stage: which of its metrics are kept, and under which name."""
_RUNS = "studies"
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Of the runs. The second lets torch look for a GPU without touching it, which no fork would survive."""


def run_generations(experiment: Experiment, store: Store) -> Iterator[dict[str, Any]]:
    """Run the loop of the experiment; yields what the policy of each generation earned and how it was trained.

    These are the stages that `tbrm run` runs, called in this process. Nothing is measured on benchmarks, and the last
    generation is not trained on, so `reward` and `kl` (to the reference, on the policy's own samples, nats a response)
    tell of every policy from policy[0] on. Finished stages are skipped, so a killed loop goes on where it was. Raises
    TbrmError like the stages do.
    """
    for generation, stages in loop(experiment):
        row: dict[str, Any] = {"generation": generation}
        for stage in (stage for stage in stages if stage.table != "scores"):
            if generation is not None and stage.trains(experiment):
                # The training may diverge, and would take the row with it; what it adds is added to the same row.
                yield row
                if generation + 1 == experiment.generations:
                    return
            metrics = stage.run(experiment, store, generation or 0).metrics
            row |= {ours: metrics[name] for name, ours in KEPT.get(stage.name, {}).items() if name in metrics}
            if stage.name == "rewards":
                row["reward_by_source"] = reward_by_source(store, experiment.name, generation or 0)


def reward_by_source(store: Store, dataset: str, generation: int) -> dict[str, float]:
    """Mean reward of a generation's trajectories by the `source` of their prompts, such as a task's name."""
    prompts, rollouts, rewards = (
        store.partition(dataset, table, generation) for table in ("prompts", "rollouts", "rewards")
    )
    asked = pa.concat_tables(rows for _, rows in prompts.iter_shards(["prompt_id", "source"]))
    said = pa.concat_tables(rows for _, rows in rollouts.iter_shards(["prompt_id"]))
    labels = pa.concat_tables(rows for _, rows in rewards.iter_shards(["reward"]))  # in the order of the rollouts
    earned = said.append_column("reward", labels["reward"]).join(asked, "prompt_id")
    means = earned.group_by("source").aggregate([("reward", "mean")]).to_pylist()
    return {str(row["source"]): float(row["reward_mean"]) for row in sorted(means, key=lambda row: str(row["source"]))}


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
            told(f"base policies of seed {seed}, after {duration(time.monotonic() - started)}")
            for index, arm in enumerate(size.arms):
                runs[pool.submit(_run, size, arm, seed, bases[base_of(size, arm)], store.root)] = index, seed
        began = time.monotonic()  # runs wait until all base policies are there
        for number, future in enumerate(as_completed(runs), 1):
            index, seed = runs[future]
            last = future.result()["generations"][-1]
            now, done = time.monotonic(), sum(run.done() for run in runs)
            told(
                f"{number} of {every} runs, {duration(now - started)}, "
                f"{duration((now - began) / done * (every - done))} left. "
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
    """`workers` processes of one thread each, so that sums are the same to the last bit for any number of workers.

    A process serves one run, so that the peak memory of a run is its own. It is forked from one that has imported what
    all runs need, which saves a quarter of the time of a run of the tiny policy. When the block is interrupted, the
    runs that have not begun are dropped.
    """
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(["transformers.models.llama.modeling_llama", "trainer.stages.train", __name__])
    with environment(_ENVIRONMENT):
        pool = ProcessPoolExecutor(workers, forked, initializer=_quiet, max_tasks_per_child=1)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _quiet() -> None:
    """Keep a run silent: the study says how far it is, and an error of the run is raised there."""
    from transformers.utils.logging import disable_progress_bar

    die_with_parent()
    send_progress_to(lambda _: None)
    disable_progress_bar()
    logging.disable(logging.WARNING)


def finished_runs(size: Size, store: Store) -> list[float]:
    """Processor seconds of each of the size's runs that are there."""
    found: list[float] = []
    for seed in range(size.seeds):
        names = {base: base_experiment(size, base, seed).name for base in size.bases}
        there = {b: name for b, name in names.items() if store.fs.exists(pointer_path(store, name, 0))}
        bases = {base: resolve_published(store, name, 0) for base, name in there.items()}
        arms = [arm for arm in size.arms if base_of(size, arm) in bases]
        runs = (arm_experiment(size, arm, seed, bases[base_of(size, arm)]).name for arm in arms)
        paths = [path for name in runs if store.fs.exists(path := _result_path(store, name))]
        found += [float(json.loads(store.read_bytes(path))["cpu_seconds"]) for path in paths]
    return found


def _ground(size: Size, name: str, seed: int, root: str) -> PolicyRef:
    """Make what the runs of one seed share: their base policy, the logs that they train on, and the labels of these."""
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
