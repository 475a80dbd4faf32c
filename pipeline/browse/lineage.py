"""From a score or a policy back to the shards and behaviour policies it came from, by the manifests' parents."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError, TbrmError
from pipeline.policies.refs import POLICY_JSON, published, published_folder, read_policy_json
from pipeline.replay.mix import partition_of
from pipeline.store import Store

_PARTITION = re.compile(r"(?P<dataset>.+)/(?P<table>[^/]+)/generation=(?P<generation>[0-9]{1,9})")
_SHORT = re.compile(r"(?P<dataset>[a-z0-9][a-z0-9_]*):(?P<generation>[0-9]{1,9})")
_GENERATION = re.compile(r"generation=([0-9]{4,9})")
_DEEPEST = 100
"""Steps back that are shown, some 30 generations: a terminal shows no deeper tree, and Python walks none."""


@dataclass
class Node:
    """One thing and what it was made from. `repeated` nodes are described elsewhere in the same tree."""

    name: str
    facts: dict[str, str] = field(default_factory=dict[str, str])
    parents: list["Node"] = field(default_factory=list["Node"])
    repeated: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **self.facts, "parents": [parent.to_json() for parent in self.parents]}


def trace(store: Store, what: str) -> Node:
    """The tree of `what`: `EXPERIMENT:GENERATION`, a policy_id, a policy folder, or a partition such as
    `arith_tiny/scores/generation=0007`.

    Raises TbrmError when it names nothing in the store. A parent whose content is no longer the one that was used is
    marked `changed`.
    """
    found = _node(store, _named(store, what), None, set())
    if "missing" in found.facts:
        raise StoreError(f"{what!r} is not in {store.root}: {found.facts['missing']}")
    return found


def _named(store: Store, what: str) -> str:
    """The partition name that `what` means."""
    if short := _SHORT.fullmatch(what):
        generation = f"generation={int(short['generation']):04d}"
        scores = store.partition(short["dataset"], "scores", int(short["generation"]))
        return f"{short['dataset']}/{'scores' if scores.is_committed() else 'policy'}/{generation}"
    if _PARTITION.fullmatch(what):
        return what
    is_folder = os.path.isfile(f"{what}/{POLICY_JSON}")  # noqa: PTH113 - a name that is too long is no error to it
    wanted = str(read_policy_json(what)["policy_id"]) if is_folder else what
    for dataset, generation in _published(store):
        if published(store, dataset, generation)["policy_id"] == wanted:
            return f"{dataset}/policy/generation={generation:04d}"
    raise TbrmError(
        f"{what!r} names nothing in {store.root}. Give EXPERIMENT:GENERATION, a policy_id, a policy folder, or a "
        "partition such as arith_tiny/scores/generation=0001"
    )


def _published(store: Store) -> Iterator[tuple[str, int]]:
    for dataset in store.datasets():
        for path in store.files(store.join(dataset, "policy")):
            if numbered := _GENERATION.fullmatch(path.rsplit("/", 1)[-1]):
                yield dataset, int(numbered[1])


def _node(store: Store, name: str, used: str | None, seen: set[str], above: int = 0) -> Node:
    """`used` is the hash that the child recorded; `above` counts the nodes between this one and the root."""
    match = _PARTITION.fullmatch(name)
    if match is None:  # a reference policy, a source file, a configuration: a fact without parents
        return Node(name, {"hash": used or ""})
    if name in seen:
        return Node(name, repeated=True)
    if above == _DEEPEST:
        return Node(name, {"goes on with": f"tbrm lineage {name}"})
    seen.add(name)
    read = _policy if match["table"] == "policy" else _partition
    facts, parents, now = read(store, match["dataset"], int(match["generation"]), name)
    if used not in (None, now):
        facts["changed"] = f"used {str(used)[:16]}, now {now[:16]}"
    return Node(
        name, facts, [_node(store, parent, hash_, seen, above + 1) for parent, hash_ in sorted(parents.items())]
    )


def _partition(store: Store, dataset: str, generation: int, name: str) -> tuple[dict[str, str], Mapping[str, str], str]:
    partition = partition_of(store, name)
    try:
        manifest = partition.manifest()
    except StoreError as error:
        return {"missing": str(error)}, {}, ""
    facts = {"rows": f"{manifest.rows:,}", "shards": str(len(manifest.shards)), "manifest": manifest.hash[:16]}
    accuracies = [key for key in manifest.stats if key.endswith("_accuracy")]
    facts |= {key.removesuffix("_accuracy"): with_interval(manifest.stats, key) for key in accuracies}
    if "reward_mean" in manifest.stats:
        facts["mean reward"] = f"{manifest.stats['reward_mean']:.3f}"
    if partition.table == "rollouts":
        facts["behaviour policy"] = ", ".join(_behaviour_policies(store, name))
    return facts, manifest.parents, manifest.hash


def with_interval(stats: Mapping[str, Any], key: str) -> str:
    """A statistic with its 95% interval."""
    return f"{stats[key]:.3f} [{stats[f'{key}_low']:.3f}, {stats[f'{key}_high']:.3f}]"


def _behaviour_policies(store: Store, name: str) -> list[str]:
    found: set[str] = set()
    for _, rows in partition_of(store, name).iter_shards(["policy_id"]):
        found.update(str(policy) for policy in rows["policy_id"].unique().to_pylist())
    return sorted(found)


def _policy(store: Store, dataset: str, generation: int, name: str) -> tuple[dict[str, str], Mapping[str, str], str]:
    try:
        pointer = published(store, dataset, generation)
    except StoreError as error:
        return {"missing": str(error)}, {}, ""
    folder = published_folder(store, pointer)
    facts = {"policy_id": str(pointer["policy_id"]), "folder": str(folder)}
    training = folder / "training.json"
    if training.is_file():
        facts |= trained_on(training)
    return facts, read_policy_json(folder)["parents"], str(pointer["policy_id"])


def trained_on(path: Path) -> dict[str, str]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        facts = {"objective": str(tree.get("training", {}).get("objective", ""))}
        for source in tree.get("mix", {}).get("sources", []):
            place = f"{source['dataset']} generation {source['generation']}"
            facts[f"trained on {place}"] = f"{source['kept']:,} of {source['available']:,} trajectories"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TbrmError(f"{path} is damaged ({type(error).__name__}: {error}): restore it") from error
    return facts
