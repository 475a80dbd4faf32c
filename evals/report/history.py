"""The course of an experiment from the store's manifests: what each generation sampled, learned, scored and cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evals.statistics.intervals import Interval, accuracy_interval, mean_interval, share_interval
from evals.statistics.scores import read_entries, read_scores
from pipeline.config import Experiment
from pipeline.replay.mix import partition_of
from pipeline.store import Manifest, Store

STAGES = {
    "rollouts": "rollouts",
    "rewards": "rewards",
    "ref_logprobs": "ref_logprobs",
    "trained_policy": "train",
    "scores": "evaluate",
}
"""What is in the store -> name of the stage that makes it, in the order of the loop."""
TABLES = ("rollouts", "rewards", "ref_logprobs", "scores")


@dataclass(frozen=True)
class GenerationRecord:
    """Generation g: trajectories sampled from policy[g], the training that followed, benchmark scores of policy[g]."""

    generation: int
    reward: Interval | None = None
    """Mean reward of the sampled trajectories; prompts are the independent units."""
    accuracy: Mapping[str, Interval] = field(default_factory=dict[str, Interval])
    """By benchmark entry."""
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Statistics of the rollouts' manifest."""
    kl: float | None = None
    """KL(policy[g] || reference) in nats a response, estimated on policy[g]'s own samples."""
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Statistics of the trained policy's manifest."""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Wall seconds by stage."""


def read_history(experiment: Experiment, store: Store) -> list[GenerationRecord]:
    """Every generation that left something in the store; the last one may be a published policy with scores alone."""
    records = [_record(experiment, store, g) for g in range(experiment.generations + 1)]
    return [r for r in records if r.seconds or r.training or r.accuracy]


def _record(experiment: Experiment, store: Store, generation: int) -> GenerationRecord:
    manifests: dict[str, Manifest] = {}
    for table in TABLES:
        partition = store.partition(experiment.name, table, generation)
        if partition.is_committed():
            manifests[table] = partition.manifest()
    trained = store.committed(experiment.name, "trained_policy", generation)
    reference = manifests["ref_logprobs"].stats if "ref_logprobs" in manifests else {}
    scores = read_scores(store, experiment.name, generation) if "scores" in manifests else {}
    return GenerationRecord(
        generation=generation,
        reward=sampled_reward(store, experiment.name, generation) if "rewards" in manifests else None,
        accuracy={name: accuracy_interval(found.correct) for name, found in scores.items()},
        sampling=manifests["rollouts"].stats if "rollouts" in manifests else {},
        kl=float(reference["behaviour_kl"]) if "behaviour_kl" in reference else None,
        training=trained.stats if trained else {},
        seconds=_seconds(store, experiment.name, generation, manifests, trained),
    )


def _seconds(
    store: Store, dataset: str, generation: int, manifests: Mapping[str, Manifest], trained: Manifest | None
) -> dict[str, float]:
    found = dict(manifests) | ({"trained_policy": trained} if trained else {})
    if "scores" in found:  # an evaluation's seconds stand with its responses, which are kept apart from their grades
        del found["scores"]
        entries = read_entries(store.partition(dataset, "scores", generation)).values()
        found |= {entry.responses: partition_of(store, entry.responses).manifest() for entry in entries}
    seconds: dict[str, float] = {}
    for table, manifest in found.items():
        stage = STAGES.get(table, "evaluate")
        seconds[stage] = seconds.get(stage, 0.0) + float(manifest.stats.get("seconds", 0.0))
    return seconds


def sampled_reward(store: Store, dataset: str, generation: int) -> Interval:
    """Mean reward with its 95% interval over prompts, whose responses are alike."""
    rewards, prompts = store.partition(dataset, "rewards", generation), list[str]()
    values: list[float] = []
    for index, rows in store.partition(dataset, "rollouts", generation).iter_shards(["prompt_id"]):
        prompts += rows["prompt_id"].to_pylist()
        values += rewards.read_shard(index, ["reward"])["reward"].to_numpy().tolist()
    _, group = np.unique(np.asarray(prompts), return_inverse=True)
    sums, sizes = np.bincount(group, weights=np.asarray(values)), np.bincount(group)
    means = sums / sizes
    # Rewards that are all 0 or all 1 do not vary in the sample, which says little about the policy.
    alike = np.ptp(means) == 0 and 0 <= means[0] <= 1
    found = share_interval(float(means[0]), len(means)) if alike else mean_interval(means)
    return Interval(float(np.mean(values)), found.low, found.high)
