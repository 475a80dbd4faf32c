"""Checkpoints of a training job: whole or absent, checked by hash, the newest good one wins."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pipeline.config.policy import PolicyConfig
from pipeline.config.training import TrainingConfig
from pipeline.errors import TbrmError
from pipeline.store.files import from_json, sync_folder, written

CHECKPOINT_JSON = "checkpoint.json"
PREFIX = "update-"
POLICY, CRITIC = "policy", "critic"
"""The parts of a checkpoint, one for each DeepSpeed engine."""
_TEMP = "_tmp."


@dataclass(frozen=True)
class Checkpoint:
    """State of a job after `update` updates."""

    path: Path
    update: int
    total_updates: int
    """Updates of the optimizer state, those of the generations it was carried through included."""
    config_hash: str
    world_size: int
    zero_stage: int
    parts: Mapping[str, str] = field(default_factory=dict[str, str])
    """What was trained, by DeepSpeed engine, as `trained_parts` says it."""
    policy_id: str | None = None
    """Identity of the exported policy, when this is the final checkpoint of a generation."""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """SHA-256 of each file, by its path in the folder."""


def trained_parts(model: PolicyConfig, training: TrainingConfig) -> dict[str, str]:
    """What a job trains, by DeepSpeed engine: a checkpoint's part fits a job that trains the same one."""
    weights = f"{model.dtype} weights" if training.lora is None else f"{model.dtype} adapters ({training.lora})"
    critic = training.needs.critic
    return {POLICY: weights} | ({CRITIC: critic} if critic else {})


def checkpoint_path(root: Path, update: int) -> Path:
    return root / f"{PREFIX}{update:08d}"


def write_checkpoint(checkpoint: Checkpoint, save: Callable[[Path], None], leader: bool) -> None:
    """All ranks call this; `save(folder)` writes every rank's files and ends in a barrier. The leader commits.

    A crash at any point leaves either the whole checkpoint or a `_tmp.` folder that nobody reads.
    """
    root, temp = checkpoint.path.parent, checkpoint.path.with_name(f"{_TEMP}{checkpoint.path.name}")
    if leader:
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir(parents=True)
    with written(checkpoint.path):
        save(temp)
    if not leader:
        return
    _write_meta(temp, replace(checkpoint, files=_hashes(temp)))
    for folder in (p for p in temp.rglob("*") if p.is_dir()):
        sync_folder(folder)
    shutil.rmtree(checkpoint.path, ignore_errors=True)
    temp.rename(checkpoint.path)
    sync_folder(root)


def mark_exported(checkpoint: Checkpoint, policy_id: str) -> None:
    """Remember which published policy holds these weights, so that the next generation can continue from here."""
    _write_meta(checkpoint.path, replace(checkpoint, policy_id=policy_id))


def newest_good(root: Path, config_hash: str | None, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint whose files all match their hashes, or None.

    Damaged or partial ones are passed over with a message. One of another configuration raises TbrmError: continuing
    from it would train something else than was asked for.
    """
    for path in sorted(root.glob(f"{PREFIX}*"), reverse=True):
        try:
            checkpoint = read_checkpoint(path)
        except TbrmError as error:
            say(f"{error}; trying the one before it")
            continue
        if config_hash is not None and checkpoint.config_hash != config_hash:
            raise TbrmError(
                f"{path} belongs to another configuration ({checkpoint.config_hash}, now {config_hash}). Restore the "
                f"configuration to go on with it, or delete {root} (or pass --replace) to train this generation anew"
            )
        return checkpoint
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises TbrmError naming the first file that is missing or changed."""
    try:
        tree = json.loads((path / CHECKPOINT_JSON).read_text(encoding="utf-8"))
        checkpoint = from_json(Checkpoint, {"path": path, **tree})
    except (OSError, ValueError, RecursionError, TypeError) as error:
        raise TbrmError(f"checkpoint {path} has no readable {CHECKPOINT_JSON} ({error})") from error
    for name, digest in checkpoint.files.items():
        file = path / name
        if not file.is_file() or _sha256(file) != digest:
            raise TbrmError(f"checkpoint {path} is damaged: {name} is {'changed' if file.is_file() else 'missing'}")
    return checkpoint


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what killed jobs left half-written."""
    paths = sorted(root.glob(f"{PREFIX}*"))
    for path in (*root.glob(f"{_TEMP}*"), *paths[: len(paths) - keep]):
        shutil.rmtree(path)


def _write_meta(folder: Path, meta: Checkpoint) -> None:
    tree = asdict(meta)
    del tree["path"]
    temp = folder / f"{_TEMP}{CHECKPOINT_JSON}"
    with temp.open("w", encoding="utf-8") as file:
        json.dump(tree, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temp.replace(folder / CHECKPOINT_JSON)
    sync_folder(folder)


def _hashes(folder: Path) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        hashes[str(path.relative_to(folder))] = _sha256(path)
    return hashes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
