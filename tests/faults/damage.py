"""Files that change at rest: truncated, bit-flipped, deleted, duplicated, torn. Then what the message says is done."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.policies.refs import POLICIES
from tests.faults.evidence import audit
from tests.faults.experiment import STAGES, run_stage
from tests.faults.process import Child, in_child
from tests.faults.trial import Trial

Damage = Callable[[Trial, Path], str]
_STAGE_OF = {
    "prompts": "rollouts",
    "quarantine": "rollouts",
    "rollouts": "rollouts",
    "rewards": "rewards",
    "ref_logprobs": "ref-logprobs",
    "trained_policy": "train",
}
_ROUNDS = 6


def truncated(trial: Trial) -> None:
    """A shard (or a policy's weights) loses its end."""
    _damage(trial, _shards, _cut)


def flipped(trial: Trial) -> None:
    """One bit of a shard (or of a policy's weights) is another."""

    def flip(trial: Trial, path: Path) -> str:
        data = bytearray(path.read_bytes())
        bit = trial.rng.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
        _write(path, bytes(data))
        return f"bit {bit} flipped"

    _damage(trial, _shards, flip)


def deleted(trial: Trial) -> None:
    """A shard (or a policy's weights) is gone."""

    def delete(_trial: Trial, path: Path) -> str:
        path.unlink()
        return "deleted"

    _damage(trial, _shards, delete)


def duplicated(trial: Trial) -> None:
    """A shard is there twice: under the next number, or in place of its neighbour."""

    def copy(trial: Trial, path: Path) -> str:
        others = [other for other in sorted(path.parent.glob("shard-*.parquet")) if other != path]
        if others and trial.rng.random() < 0.6:
            _write(path, trial.rng.choice(others).read_bytes())
            return "overwritten by its neighbour"
        target = path.with_name("shard-00002.parquet")
        _write(target, path.read_bytes())
        trial.damaged = ""
        return f"copied as {target.name}"

    _damage(trial, lambda root: [path for path in _shards(root) if path.suffix == ".parquet"], copy)


def torn(trial: Trial) -> None:
    """A manifest, a receipt or the pointer to a published policy loses its end."""

    def papers(root: Path) -> list[Path]:
        patterns = ("_manifest.json", "_shard-*.json", "policy.json")
        return sorted(path for pattern in patterns for path in root.rglob(pattern))

    _damage(trial, papers, _cut)


def _shards(root: Path) -> list[Path]:
    return sorted(path for pattern in ("shard-*.parquet", "model.safetensors") for path in root.rglob(pattern))


def _cut(trial: Trial, path: Path) -> str:
    data = path.read_bytes()
    kept = trial.rng.randrange(len(data))
    _write(path, data[:kept])
    return f"cut after {kept:,} of {len(data):,} bytes"


def _write(path: Path, data: bytes) -> None:
    """As a new file: others may be links to the old one, as the copies kept aside are."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def _damage(trial: Trial, candidates: Callable[[Path], list[Path]], damage: Damage) -> None:
    root, backup = Path(trial.root), trial.folder / "backup"

    def inject(_child: Child) -> None:
        found = [path for path in candidates(root) if "training_state" not in path.parts and path.stat().st_size]
        if not found:
            trial.outcome.detail = "there was nothing to damage yet"
            return
        path = trial.rng.choice(found)
        shutil.copyfile(path, backup)
        trial.damaged = str(path)
        said = damage(trial, path)
        trial.outcome.detail = f"{path.relative_to(root)} {said}"

    child = trial.strike(inject, stages=STAGES)
    trial.outcome.names_cause = child.wait() == 0 or _names(trial, child.message())
    for _ in range(_ROUNDS):
        child = trial.resume()
        found: dict[str, Any] = {"damage": []}
        if trial.outcome.resumed:
            found = in_child(trial.folder / "audit", lambda: audit(trial.root))
            if not found["damage"]:
                break
        message = child.message() if not trial.outcome.resumed else found["damage"][0]
        trial.outcome.message = trial.outcome.message or message[-600:]
        if not _names(trial, message):
            trial.outcome.names_cause = False
            trial.outcome.different.append(f"does not name {trial.damaged}: {message[-600:]}")
            return
        trial.outcome.different = []
        _mend(trial, message, backup)


def _names(trial: Trial, message: str) -> bool:
    """The message names the damaged file, or the folder of the policy that it belongs to."""
    return bool(trial.damaged) and (trial.damaged in message or f"{Path(trial.damaged).parent} " in message)


def _trained(root: Path, policy_id: str) -> str | None:
    """The generation that trained a policy, as its record says."""
    records = root.glob("*/trained_policy/generation=[0-9][0-9][0-9][0-9]/policy.json")
    return next((path.parent.name for path in records if policy_id in path.read_text()), None)


def _mend(trial: Trial, message: str, backup: Path) -> None:
    """What the message tells the user to do: of several ways a random one, but the first is never a second time."""
    path = Path(trial.damaged)
    table, partition = path.parent.parent.name, path.parent.name
    if table == POLICIES and (found := _trained(Path(trial.root), path.parent.name)):
        table, partition = "trained_policy", found
    ways = ["restore"]
    if "delete it and run" in message:  # of a published policy's pointer
        ways.append("delete")
    # A later generation's optimizer state went on from the one before, which is not kept for ever.
    known = table != "trained_policy" or partition == "generation=0000"
    if "--replace" in message and table in _STAGE_OF and "logged" not in path.parts and known:
        ways.append("replace")
    way = trial.rng.choice([way for way in ways if way not in trial.outcome.remedies] or ways)
    trial.outcome.remedies.append(way)
    if way == "restore":
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, backup.read_bytes())
    elif way == "delete":
        path.unlink()
    else:
        generation = int(partition.removeprefix("generation="))

        def replace(_announce: Callable[[str], None]) -> None:
            run_stage(trial.yaml, trial.root, _STAGE_OF[table], generation, "--replace")

        child = Child(trial.folder / "replaced", replace)
        if child.wait():
            trial.outcome.remedies.append(f"--replace failed: {child.message()[-400:]}")
            trial.outcome.names_cause = False
