"""Whole configurations, kept in the store by content: each manifest names the file of the one that ran.

An experiment has one configuration. What a stage adds has to be made with the same settings as what is there already;
where they differ, the stage refuses and names the fields.

A fork is an experiment that starts from policy[G] of another one and goes on by settings of its own. It keeps the
policies that it needs as links to the files of the first experiment, so that it stays whole when that is deleted, and
reads the trajectories of generations before G from it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Experiment, parse_yaml, stage_hash
from pipeline.errors import ConfigError, StoreError
from pipeline.policies.refs import (
    check_undamaged,
    keep_policy,
    pointer_path,
    publish_policy,
    published,
    resolve_published,
)
from pipeline.store import Partition, Store
from pipeline.store.files import Files, from_json

_FILE = "fork.json"


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
        return from_json(Fork, json.loads(store.read_bytes(path)))
    except ValueError as error:
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
        folder = keep_policy(store, name, Path(policy.path))
        publish_policy(store, name, number, folder, pointer["parents"], configuration=pointer["configuration"])
    return wanted


FOLDER, _CURRENT = "configurations", "experiment.yaml"
_WHOLE = frozenset({"prompts.reasoning_gym.options"})
"""Mappings that are compared as one value, because their keys are no fields of the configuration."""
_ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """A field that decides what a stage writes, with its value in the store and its value now."""

    path: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.before)} there, {_shown(self.now)} now"


def keep_configuration(store: Store, experiment: Experiment) -> str:
    """Keep the resolved configuration in the store; returns its file below the root. A second call changes nothing."""
    name = f"{experiment.name}/{FOLDER}/{stage_hash(experiment)}.yaml"
    path = store.join(*name.split("/"))
    if not store.fs.exists(path):
        store.write_atomic(path, _as_yaml(experiment))
    return name


def keep_experiment(store: Store, experiment: Experiment) -> None:
    """Note these settings as those of the experiment now, so that it can be shown where no YAML file names it."""
    store.write_atomic(store.join(experiment.name, _CURRENT), _as_yaml(experiment))


def kept_experiments(store: Store) -> dict[str, str]:
    """The noted settings of each experiment of the store, as `--experiment` takes them, by the experiment's name."""
    there = (name for name in store.datasets() if "/" not in name)
    return {
        name: configuration_file(store, f"{name}/{_CURRENT}")
        for name in there
        if store.fs.exists(store.join(name, _CURRENT))
    }


def _as_yaml(experiment: Experiment) -> bytes:
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode()


def configuration_file(store: Store, name: str) -> str:
    """Where a kept configuration lies, as `--experiment` takes it: a path, or an address for a root that is one."""
    path = store.join(*name.split("/"))
    return path if store.is_local else str(store.fs.unstrip_protocol(path))


def read_configuration(store: Files, name: str) -> dict[str, Any]:
    """The tree of a kept configuration. Raises StoreError when it is gone or damaged."""
    path = store.join(*name.split("/"))
    try:
        return parse_yaml(store.read_bytes(path).decode(), path)
    except (FileNotFoundError, UnicodeDecodeError, ConfigError) as error:
        raise StoreError(f"{path}, which a manifest names, cannot be read ({error}); restore it") from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any], decides: Iterable[str]) -> list[Difference]:
    """Where two resolved configurations differ, among the dotted paths `decides` and what lies below them.

    A field that only one of them knows is passed over: another version of tbrm wrote the other.
    """
    found: list[Difference] = []
    for path in decides:
        found += _compare(path, _at(before, path), _at(now, path))
    return found


def settings_at(tree: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The values of a configuration at dotted paths, without those that it does not have."""
    found = {path: _at(tree, path) for path in paths}
    return {path: value for path, value in found.items() if value is not _ABSENT}


def check_alike(
    store: Store,
    experiment: Experiment,
    table: str,
    generation: int,
    decides: Sequence[str],
    replace: bool,
    label_of_rows: bool = False,
    of_one: Sequence[str] = (),
) -> None:
    """Raise StoreError where writing table[`generation`] would mix data that different settings made.

    That is so where the partition is there and other settings made it (unless `replace`), and where other settings made
    the nearest other generation of the table. With `label_of_rows`, `replace` lets the second case pass too: labels of
    all generations are then written anew, one generation after another. `of_one` are further fields
    that decide a partition, in which generations may differ.
    """
    own = store.partition(experiment.name, table, generation)
    now = experiment.model_dump(mode="json")
    if own.is_committed() and not replace and (found := _made_otherwise(own, now, [*decides, *of_one])):
        raise StoreError(
            f"{own.name} is already committed with other settings:\n{listed(found)}\nAdd --replace to write it anew "
            f"(the old one is kept beside it), or start another experiment: {branch(experiment.name)}"
        )
    if replace and label_of_rows:
        return
    others = [g for g in store.generations(experiment.name, table) if g != generation]
    if not others:
        return
    nearest = min(others, key=lambda g: (abs(g - generation), g))
    if found := _made_otherwise(store.partition(experiment.name, table, nearest), now, decides):
        raise StoreError(mixed(experiment.name, [(table, [nearest], found)]))


def _made_otherwise(partition: Partition, now: Mapping[str, Any], decides: Sequence[str]) -> list[Difference]:
    name = partition.manifest().configuration
    return differences(read_configuration(partition.store, name), now, decides) if name else []


def mixed(experiment: str, found: Sequence[tuple[str, Sequence[int], Sequence[Difference]]]) -> str:
    """The message for an experiment that holds what other settings made: (table, generations, differences) each."""
    lines = [f"{experiment} holds what other settings made:"]
    for table, generations, different in found:
        plural = "s" if len(generations) > 1 else ""
        of = f" of generation{plural} {spans(generations)}" if generations else ""
        lines += [f"{table}{of}:", listed(different)]
    lines.append(
        "Nothing was written. Take these settings back, or keep both: "
        f"{branch(experiment)} starts from the beginning, with --fork-from G as well it starts from policy[G] of "
        f"{experiment}"
    )
    return "\n".join(lines)


def listed(found: Iterable[Difference]) -> str:
    return "\n".join(f"  {one}" for one in found)


def branch(experiment: str) -> str:
    """The command that makes another experiment of the same YAML."""
    return f"`tbrm run {experiment} --set … --name NEW`"


def spans(numbers: Iterable[int]) -> str:
    """Generations in words: [0, 1, 2, 5] -> `0 to 2, 5`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts)


def _at(tree: Mapping[str, Any], path: str) -> Any:
    node: Any = tree
    for key in path.split("."):
        if not isinstance(node, Mapping):
            return None if node is None else _ABSENT  # of `rollouts: none` every field is none
        if key not in node:
            return _ABSENT
        node = node[key]
    return node


def _compare(path: str, before: Any, now: Any) -> list[Difference]:
    if before is _ABSENT or now is _ABSENT or before == now:
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping) and path not in _WHOLE:
        found: list[Difference] = []
        for key in before:
            found += _compare(f"{path}.{key}", before[key], now.get(key, _ABSENT))
        return found
    return [Difference(path, before, now)]


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else text[:79] + "…"
