"""From a finished job to a committed policy folder: complete it, make it durable, rename it into place."""

import itertools
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import TbrmError
from pipeline.policies.refs import write_policy_json
from pipeline.store import Manifest, ShardInfo, Stat, checksum, code_version, sync_folder
from pipeline.store.manifest import MANIFEST, parse_manifest
from trainer.data.trajectories import TRAJECTORIES
from trainer.diagnostics.numbers import DIAGNOSTICS_FILE, PLOT_FILE, parse_diagnostics
from trainer.diagnostics.view import draw
from trainer.engine.checkpoint import mark_exported, newest_good, prune
from trainer.job import METRICS_FILE, TrainJob
from trainer.stages.settings import TABLE, TRAINING_JSON

LOCK = "_lock"
LOGS = (TRAINING_JSON, METRICS_FILE, DIAGNOSTICS_FILE, PLOT_FILE)


def finish(job: TrainJob, tree: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """Complete the exported folder with `policy.json`, `training.json`, `metrics.jsonl` and the diagnostics.

    Returns the policy_id. The last checkpoint learns it, so that the next generation knows whose optimizer state it is.
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


def place(job: TrainJob, folder: Path) -> None:
    """Make the finished folder durable and rename it to `folder`: a reader sees all of it or nothing.

    What was there, damaged or not, is kept beside it.
    """
    for path in job.out.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(job.out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        asides = (folder.with_name(f"{folder.name}.replaced-{number}") for number in itertools.count())
        folder.rename(next(path for path in asides if not path.exists()))
    job.out.rename(folder)
    sync_folder(folder.parent)


def write_manifest(
    job: TrainJob,
    experiment: str,
    generation: int,
    parents: Mapping[str, str],
    stats: Mapping[str, Stat],
    configuration: str,
) -> Manifest:
    """A manifest of table `trained_policy` inside the exported folder, so that the rename commits it.

    It lists what makes the policy; the logs beside it hold times, and would give a repeated run another hash.
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


def tidy(state: Path) -> None:
    """Keep the last checkpoint of this job, and what the generation before left; drop trajectories and older states.

    `state` is the folder of a job, in that of its generation.
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


def _checksum(path: Path) -> str:
    import mmap

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return checksum(memoryview(data))
