"""An experiment that starts from policy[G] of another one. Its generations go on from G, by settings of its own.

The fork keeps the policies that it needs: as links to the files of the first experiment, so that it stays whole when
that is deleted. It reads the trajectories of generations before G from the other experiment.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.policies.mirror import local_root
from pipeline.policies.refs import check_undamaged, pointer_path, publish_policy, published, resolve_published
from pipeline.store import Store

_FILE, _FOLDER = "fork.json", "forked"


@dataclass(frozen=True)
class Fork:
    """Where an experiment comes from: policy[`generation`] of `experiment`, with that policy_id."""

    experiment: str
    generation: int
    policy_id: str


def read_fork(store: Store, name: str) -> Fork | None:
    """Where experiment `name` was forked from; None where it starts by itself. Raises StoreError for a damaged note."""
    path = store.join(name, _FILE)
    if not store.fs.exists(path):
        return None
    try:
        return Fork(**json.loads(store.read_bytes(path)))
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}): restore it") from error


def first_generation(store: Store, name: str) -> int:
    """The generation that experiment `name` begins with: 0, or the one that it was forked at."""
    found = read_fork(store, name)
    return found.generation if found else 0


def owner_of(store: Store, name: str, generation: int) -> str:
    """The experiment that has the trajectories of a generation: `name`, or what it (in the end) was forked from."""
    found = read_fork(store, name)
    while found is not None and generation < found.generation:
        name = found.experiment
        found = read_fork(store, name)
    return name


def fork_experiment(store: Store, name: str, origin: str, generation: int) -> Fork:
    """Make `name` an experiment that goes on from policy[`generation`] of `origin`. A second call changes nothing.

    Raises StoreError when that policy is not there or is damaged, or when `name` is another experiment already.
    """
    there = read_fork(store, name)
    policy_id = str(published(store, origin, generation)["policy_id"])
    wanted = Fork(origin, generation, policy_id)
    if there != wanted and (there is not None or store.files(store.join(name))):
        came = f"was forked from {there.experiment}:{there.generation} ({there.policy_id})" if there else "is one"
        raise StoreError(
            f"{name} {came} already, in {store.join(name)}: give the fork of {origin}:{generation} another --name"
        )
    if there is None:
        store.write_atomic(store.join(name, _FILE), (json.dumps(asdict(wanted), indent=1) + "\n").encode())
    for number in sorted({0, generation}):  # policy[0] is the reference
        if store.fs.exists(pointer_path(store, name, number)):
            continue
        policy, pointer = resolve_published(store, origin, number), published(store, origin, number)
        check_undamaged(policy)
        folder = local_root(store) / name / _FOLDER / policy.policy_id
        _link(Path(policy.path), folder)
        publish_policy(store, name, number, folder, pointer["parents"], configuration=pointer["configuration"])
    return wanted


def _link(source: Path, target: Path) -> None:
    """Make a folder `target` with the files of `source`: hard links where the file system has them, else copies."""
    if target.exists():
        return  # it is whole: it was renamed into place when it was complete
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in source.iterdir():
        try:
            os.link(path, partial / path.name)
        except OSError:
            shutil.copyfile(path, partial / path.name)
    partial.rename(target)
