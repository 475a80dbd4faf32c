"""Naming a policy: `EXPERIMENT:GENERATION`, a Hugging Face folder, a hub id, or a server's address."""

import re
from dataclasses import dataclass

from pipeline.errors import TbrmError
from pipeline.policy import PolicyRef, foreign_policy, resolve_candidate
from pipeline.store import Partition, Store

EVALUATED = "evaluated"
"""Folder of the store for policies that are no generation of an experiment."""
_GENERATION = re.compile(r"([a-z0-9][a-z0-9_]*):(\d+|latest)")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Target:
    """A policy to measure, and where its tables lie: `dataset` and `generation` of the store."""

    policy: PolicyRef
    dataset: str
    generation: int

    def responses(self, store: Store, name: str, key: str) -> Partition:
        """Responses to the entry `name`; equal `key`, equal responses."""
        return store.partition(self.dataset, f"responses@{name}-{key[:8]}", self.generation)


def target_of(store: Store, text: str) -> Target:
    """The policy that `text` names. Raises TbrmError when it is no generation and cannot be a policy."""
    found = _GENERATION.fullmatch(text)
    if found:
        dataset = found[1]
        generation = newest_policy(store, dataset) if found[2] == "latest" else int(found[2])
        return Target(resolve_candidate(store, dataset, generation), dataset, generation)
    return foreign_target(foreign_policy(text))


def foreign_target(policy: PolicyRef) -> Target:
    """Where the tables of a policy lie that is no generation of an experiment."""
    name = _NOT_IN_A_NAME.sub("-", policy.policy_id).strip("-.")
    return Target(policy, f"{EVALUATED}/{name}", 0)


def newest_policy(store: Store, dataset: str) -> int:
    """The last published generation of an experiment. Raises TbrmError when there is none."""
    folder = store.join(dataset, "policy")
    paths = store.fs.ls(folder, detail=False) if store.fs.isdir(folder) else []
    names = [str(path).rstrip("/").rsplit("/", 1)[-1].removeprefix("generation=") for path in paths]
    generations = [int(name) for name in names if name.isdigit()]
    if not generations:
        raise TbrmError(f"{dataset} has no published policy in {store.root}; run `tbrm base-policy -e {dataset}` first")
    return max(generations)


def evaluated(store: Store, label: str | None = None) -> list[tuple[str, int]]:
    """(dataset, generation) of every committed scores partition, experiments first."""
    table = f"scores@{label}" if label else "scores"
    folder = store.join(EVALUATED)
    foreign = sorted(store.fs.ls(folder, detail=False)) if store.fs.isdir(folder) else []
    names = [*store.datasets(), *(f"{EVALUATED}/{str(path).rstrip('/').rsplit('/', 1)[-1]}" for path in foreign)]
    return [(name, generation) for name in names for generation in store.generations(name, table)]
