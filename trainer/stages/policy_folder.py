"""The folder of a trained policy: what decides it, how a finished job becomes it, and what stands on it.

A policy folder holds neither AdamW's moments, nor a critic, nor the fp32 master weights of a bfloat16 policy, without
which a small learning rate moves almost no weight. They are the training state that a generation hands on. The critic
and the master weights belong to the policy, so a stage that cannot find them refuses to train.
"""

import itertools
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Experiment
from pipeline.config.training import TrainingConfig
from pipeline.errors import StoreError, TbrmError
from pipeline.policies.refs import POLICY_JSON, keep_policy, write_policy_json
from pipeline.run.configurations import Difference, differences, mixed, read_configuration
from pipeline.store import Manifest, ShardInfo, Stat, Store, checksum, code_version, sync_folder
from pipeline.store.partition import MANIFEST, parse_manifest
from trainer.diagnostics.numbers import DIAGNOSTICS_FILE, PLOT_FILE, draw, parse_diagnostics
from trainer.engine.checkpoint import (
    CRITIC,
    POLICY,
    PREFIX,
    Checkpoint,
    mark_exported,
    newest_good,
    prune,
    trained_parts,
)
from trainer.job import METRICS_FILE, TRAJECTORIES, TrainJob

STATE, LOCK = "training_state", "_lock"
_log = logging.getLogger(__name__)


def carried(experiment: Experiment, states: Path, generation: int, policy_id: str, first: int = 0) -> Path | None:
    """The checkpoint that training of policy[generation] starts from: the last one of the generation before.

    The `first` generation of an experiment, forked or not, starts from the policy alone. With `optimizer_state: fresh`
    only a critic and master weights need the checkpoint. None where there is nothing to carry. Raises TbrmError where
    the checkpoint is needed and cannot be found, or does not fit the objective.
    """
    if generation == first:
        return None
    training, before = experiment.training, states / f"generation={generation - 1:04d}"
    fresh, wanted = training.optimizer_state == "fresh", trained_parts(experiment.policy, training)
    masters = experiment.policy.dtype != "float32"
    found = _state_of(before, policy_id)
    if found is None:
        lost = [*(["the fp32 master weights"] if masters else []), *(["the critic"] if CRITIC in wanted else [])]
        if lost:
            raise TbrmError(
                f"{before} holds no training state of policy {policy_id}: {' and '.join(lost)} would be lost, which no "
                f"policy folder holds. Restore {before} from where generation {generation - 1} was trained, or start a "
                "new experiment with this policy's folder as policy.base"
            )
        if not fresh:
            _log.warning("%s holds no training state of policy %s: AdamW starts anew", before, policy_id)
        return None
    if not fresh:
        _check_fits(found, wanted)
    elif found.parts.get(POLICY) != wanted[POLICY]:
        if masters:
            raise _misfit(found, wanted, "Restore the YAML, or start a new experiment with this policy's folder")
        return None
    return found.path if not fresh or masters or CRITIC in wanted else None


def tidy(state: Path) -> None:
    """After a generation: delete all but this job's last checkpoint and the state of the generation before.

    `state` is the folder of the job, which lies in the folder of its generation.
    """
    prune(state, keep=1)
    (state / TRAJECTORIES).unlink(missing_ok=True)
    own = state.parent
    for path in own.iterdir():
        if path != state and path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = f"generation={max(int(own.name.removeprefix('generation=')) - 1, 0):04d}"
    for path in own.parent.glob("generation=*"):
        if path.name < before:
            shutil.rmtree(path)


def forget(state: Path) -> None:
    """Drop everything a job left in its folder, except the lock that its owner holds."""
    for path in state.iterdir():
        if path.name == LOCK:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _state_of(generation: Path, policy_id: str) -> Checkpoint | None:
    """The last checkpoint of the job that made a policy. Each job of a generation has a folder there."""
    jobs = [path for path in sorted(generation.glob("*")) if path.is_dir() and not path.name.startswith(PREFIX)]
    newest = (newest_good(folder, None, _log.warning) for folder in (*jobs, generation))
    return next((found for found in newest if found is not None and found.policy_id == policy_id), None)


def _check_fits(found: Checkpoint, wanted: Mapping[str, str]) -> None:
    if any(found.parts.get(name) != kind for name, kind in wanted.items()):
        raise _misfit(found, wanted, "Set training.optimizer_state: fresh to start what does not fit anew")


def _misfit(found: Checkpoint, wanted: Mapping[str, str], remedy: str) -> TbrmError:
    return TbrmError(
        f"the training state {found.path} does not fit: it holds {_words(found.parts)}, and the job trains "
        f"{_words(wanted)}. {remedy}"
    )


def _words(parts: Mapping[str, str]) -> str:
    return " and ".join(f"{name} ({kind})" for name, kind in parts.items()) or "something unknown"


TABLE, TRAINING_JSON = "trained_policy", "training.json"
LOGS = (TRAINING_JSON, METRICS_FILE, DIAGNOSTICS_FILE, PLOT_FILE)
"""Files beside the policy that do not make it."""
DECIDES = ("seed", "policy.dtype", "replay", *TrainingConfig.alike_fields("training"))
"""Fields in which the generations of an experiment are alike."""


def finish(job: TrainJob, tree: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """Complete the exported folder with `policy.json`, `training.json`, `metrics.jsonl` and the diagnostics.

    Returns the policy_id. The last checkpoint notes it too, so that the next generation finds its optimizer state.
    """
    shutil.copyfile(job.state / METRICS_FILE, job.out / METRICS_FILE)
    if (job.state / DIAGNOSTICS_FILE).exists():
        text = (job.state / DIAGNOSTICS_FILE).read_text(encoding="utf-8")
        (job.out / DIAGNOSTICS_FILE).write_text(text, encoding="utf-8")
        draw(parse_diagnostics(json.loads(text)), job.out / PLOT_FILE)
    (job.out / TRAINING_JSON).write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    policy_id = write_policy_json(job.out, parents)
    last = newest_good(job.state, job.config_hash, lambda _: None)
    if last is not None and last.update == job.updates:
        mark_exported(last, policy_id)
    return policy_id


def keep(job: TrainJob, store: Store, experiment: str) -> None:
    """Put the finished policy among those of the experiment; what is left in the job's folder is its record.

    Nobody reads the policy yet: it becomes one of the experiment when it is published.
    """
    _sync(job.out)
    keep_policy(store, experiment, job.out, without=(*LOGS, MANIFEST))
    for path in list(job.out.iterdir()):
        if path.name not in (*LOGS, MANIFEST, POLICY_JSON):
            path.unlink()


def place(job: TrainJob, folder: Path) -> None:
    """Make the finished folder durable and rename it to `folder`: a reader sees all of it or nothing.

    What was there, damaged or not, is kept beside it. Where the file system can exchange two folders (Linux, most local
    disks), a reader sees the old folder or the new one at every moment; elsewhere neither, between two renames.
    """
    _sync(job.out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        asides = (folder.with_name(f"{folder.name}.replaced-{number}") for number in itertools.count())
        aside = next(path for path in asides if not path.exists())
        job.out.rename(aside)  # until the exchange it holds the new policy, under a name that nobody reads
        if not exchange(aside, folder):
            aside.rename(job.out)
            folder.rename(aside)
            job.out.rename(folder)
    else:
        job.out.rename(folder)
    sync_folder(folder.parent)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def exchange(first: Path, second: Path) -> bool:
    """Swap the names of two folders in one step; False where the system or the file system does not offer that."""
    import ctypes

    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h
    renameat2: Any = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform.startswith("linux") else None
    return renameat2 is not None and renameat2(here, bytes(first), here, bytes(second), exchange) == 0


def write_manifest(
    job: TrainJob,
    experiment: str,
    generation: int,
    parents: Mapping[str, str],
    stats: Mapping[str, Stat],
    configuration: str,
) -> Manifest:
    """A manifest of table `trained_policy` inside the exported folder, so that the rename commits it.

    It lists the files that make the policy, which `keep` moves to the policies of the experiment. LOGS are left out:
    they hold times, which differ in a repeated run.
    """
    files = sorted(p for p in job.out.iterdir() if p.name not in LOGS)
    manifest = Manifest(
        dataset=experiment,
        table=TABLE,
        generation=generation,
        config_hash=job.config_hash,
        code_version=code_version(),
        parents=dict(sorted(parents.items())),
        shards=tuple(ShardInfo(p.name, 0, p.stat().st_size, _checksum(p)) for p in files),
        stats=dict(stats),
        configuration=configuration,
    )
    (job.out / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def committed(folder: Path) -> Manifest | None:
    """The manifest of a committed policy folder, None when there is none. Raises StoreError for a damaged one."""
    path = folder / MANIFEST
    return parse_manifest(path.read_text(encoding="utf-8"), str(path)) if path.exists() else None


def training_tree(folder: Path) -> dict[str, Any]:
    """`training.json` of a policy folder, empty where there is none. Raises TbrmError for a damaged one."""
    path = folder / TRAINING_JSON
    if not path.exists():
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TbrmError(f"{path} is damaged ({error}): restore it") from error
    return tree if isinstance(tree, dict) else {}


def settings_of(store: Store, name: str, generation: int) -> dict[str, Any]:
    """The configuration that trained a policy: all of it, or, of an older version, `training` alone.

    Empty where neither can be read: a damaged policy is reported where it is used.
    """
    folder = store.join(name, TABLE, f"generation={generation:04d}")
    try:
        manifest = parse_manifest(store.read_bytes(f"{folder}/{MANIFEST}").decode(), folder)
        if manifest.configuration:
            return read_configuration(store, manifest.configuration)
        return {"training": json.loads(store.read_bytes(f"{folder}/{TRAINING_JSON}"))["training"]}
    except (StoreError, OSError, ValueError, KeyError, TypeError):
        return {}


def differences_of(store: Store, experiment: Experiment, generation: int) -> list[Difference]:
    """The deciding fields in which trained_policy[`generation`] differs from the experiment."""
    before = settings_of(store, experiment.name, generation)
    return differences(before, experiment.model_dump(mode="json"), DECIDES) if before else []


def trained_generations(store: Store, name: str) -> list[int]:
    """Generations that have a committed policy."""
    return store.generations(name, TABLE)


def check_alike(store: Store, experiment: Experiment, generation: int) -> None:
    """Raise StoreError where the nearest other generation was trained by other settings, `replace` or not.

    The generations would be those of two experiments under one name.
    """
    others = [g for g in trained_generations(store, experiment.name) if g != generation]
    if not others:
        return
    nearest = min(others, key=lambda g: (abs(g - generation), g))
    if found := differences_of(store, experiment, nearest):
        raise StoreError(mixed(experiment.name, [(TABLE, [nearest], found)]))


def standing_on(store: Store, name: str, generation: int) -> str:
    """What was made from policy[`generation`] of an experiment, in words; empty where nothing was."""
    rollouts = store.partition(name, "rollouts", generation).is_committed()
    found = ["rollouts"] if rollouts else []
    found += [TABLE] if generation in trained_generations(store, name) else []
    return f"{' and '.join(found)} of generation {generation}" if found else ""


def _checksum(path: Path) -> str:
    import mmap

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return checksum(memoryview(data))
