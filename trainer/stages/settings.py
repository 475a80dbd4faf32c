"""By which settings the policies of an experiment were trained, and whether the next one may be trained by others."""

import json
from typing import Any

from pipeline.config import Experiment
from pipeline.config.training import TrainingConfig
from pipeline.errors import StoreError
from pipeline.run.configurations import Difference, differences, mixed, read_configuration
from pipeline.store import Store
from pipeline.store.manifest import MANIFEST, parse_manifest

TABLE, TRAINING_JSON = "trained_policy", "training.json"
DECIDES = ("seed", "policy.dtype", "replay", *TrainingConfig.alike_fields("training"))
"""Fields in which the generations of an experiment are alike."""


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
    """In which deciding fields trained_policy[`generation`] was trained by other settings than the experiment's."""
    before = settings_of(store, experiment.name, generation)
    return differences(before, experiment.model_dump(mode="json"), DECIDES) if before else []


def trained_generations(store: Store, name: str) -> list[int]:
    """Generations that have a committed policy."""
    return store.generations(name, TABLE)


def check_alike(store: Store, experiment: Experiment, generation: int) -> None:
    """Generations that different settings trained are two experiments under one name, with `replace` too."""
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
