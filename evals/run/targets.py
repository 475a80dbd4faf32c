"""Naming a policy: `EXPERIMENT:GENERATION`, a Hugging Face folder, a hub id `org/name@commit`, or a server."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Experiment, build_experiment
from pipeline.config.policy import HubModel, ServerModel, named_policy
from pipeline.errors import TbrmError
from pipeline.policies.refs import Acting, foreign_policy, published, resolve_published
from pipeline.run.configurations import read_configuration
from pipeline.sampling.endpoint import endpoint_policy
from pipeline.store import Partition, Store

EVALUATED = "evaluated"
"""Folder of the store for policies that are no generation of an experiment."""
_GENERATION = re.compile(r"([a-z0-9][a-z0-9_]*):(\d+|latest)")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Target:
    """A policy to measure, and where its tables lie: `dataset` and `generation` of the store."""

    policy: Acting
    dataset: str
    generation: int

    def responses(self, store: Store, name: str, key: str) -> Partition:
        """Responses to the entry `name`; equal `key`, equal responses."""
        return store.partition(self.dataset, f"responses@{name}-{key[:8]}", self.generation)


def target_of(store: Store, text: str, named: Sequence[str] = ()) -> Target:
    """The policy that `text` names. Only a server in `named`, which an experiment's YAML has, is sent the API key.

    Raises TbrmError for a text that names neither a generation nor anything else that can be a policy.
    """
    found = _GENERATION.fullmatch(text)
    if found:
        dataset = found[1]
        generation = newest_policy(store, dataset) if found[2] == "latest" else int(found[2])
        return Target(resolve_published(store, dataset, generation), dataset, generation)
    return foreign_target(text, named)


def experiment_of(store: Store, text: str) -> Experiment | None:
    """The settings that made the policy `EXPERIMENT:GENERATION`; None for a policy that is no generation.

    Raises TbrmError where the store does not say them.
    """
    found = _GENERATION.fullmatch(text)
    if found is None:
        return None
    target = target_of(store, text)
    kept = published(store, target.dataset, target.generation)["configuration"]
    if kept is None:
        raise TbrmError(
            f"the store does not say which settings made {text}: it was published by an earlier version of tbrm, or by "
            f"hand. Name its experiment: `--experiment {target.dataset}`"
        )
    return build_experiment(read_configuration(store, kept), kept)


def foreign_target(text: str, named: Sequence[str] = ()) -> Target:
    """A policy that is no generation of an experiment: what `named_policy` knows. Raises TbrmError."""
    meant = named_policy(text)
    if isinstance(meant, ServerModel):
        served = endpoint_policy(meant, named)
        return Target(served, _dataset(served.policy_id), 0)
    try:
        policy = foreign_policy(meant)
    except TbrmError as error:
        raise TbrmError(f"{text!r} is neither EXPERIMENT:GENERATION nor a policy that can be had: {error}") from error
    if isinstance(meant, HubModel):
        return Target(policy, _dataset(policy.policy_id), 0)
    return Target(policy, _dataset(f"{Path(policy.path).resolve().name}-{policy.policy_id[:8]}"), 0)


def _dataset(name: str) -> str:
    """Folder of the store for a foreign policy's tables."""
    return f"{EVALUATED}/{_NOT_IN_A_NAME.sub('-', name).strip('-.')}"


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
