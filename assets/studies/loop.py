"""One experiment's loop in this process: the same stages as `tbrm run`, without an orchestrator around them."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.config import Experiment
from pipeline.logged.labels import run_logged_labels
from pipeline.reference import run_ref_logprobs
from pipeline.rewards.stage import run_rewards
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store
from trainer.stages.base_policy import run_base_policy
from trainer.stages.train import run_train

TRAINED = (
    *("value_first", "residual_abs", "grad_norm", "peak_memory_gb", "seconds", "seconds_rollout", "seconds_ref_prob"),
    *("seconds_old_prob", "seconds_ppo_value", "seconds_ppo_update_value", "seconds_update_policy", "control_cosine"),
)
"""What is kept of the statistics of a generation's updates; `seconds_*` are the paper's time segments (Fig. 2b)."""


def run_generations(experiment: Experiment, store: Store) -> Iterator[dict[str, Any]]:
    """Sample and label `generations` times and train in between; yields what each policy earned and how it was trained.

    The last generation is not trained on, so `reward` and `kl` (to the reference, on the policy's own samples, nats a
    response) tell of every policy from policy[0] on. Finished stages are skipped, so a killed loop goes on where it
    was. Raises TbrmError like the stages do.
    """
    run_base_policy(experiment, store)
    if experiment.replay.logged:
        run_logged_labels(experiment, store)
    for generation in range(experiment.generations):
        run_rollouts(experiment, store, generation)
        row: dict[str, Any] = {"generation": generation}
        row["reward"] = run_rewards(experiment, store, generation).metrics["reward_mean"]
        row["reward_by_source"] = reward_by_source(store, experiment.name, generation)
        row["kl"] = run_ref_logprobs(experiment, store, generation).metrics["behaviour_kl"]
        # Before the training, which may diverge and would take the row with it; what it adds is added to the same row.
        yield row
        if generation + 1 < experiment.generations:
            trained = run_train(experiment, store, generation).metrics
            row |= {name: trained[name] for name in TRAINED if name in trained}


def reward_by_source(store: Store, dataset: str, generation: int) -> dict[str, float]:
    """Mean reward of a generation's trajectories by the `source` of their prompts, such as a task's name."""
    prompts, rollouts, rewards = (
        store.partition(dataset, table, generation) for table in ("prompts", "rollouts", "rewards")
    )
    asked = pa.concat_tables(rows for _, rows in prompts.iter_shards(["prompt_id", "source"]))
    said = pa.concat_tables(rows for _, rows in rollouts.iter_shards(["prompt_id"]))
    labels = pa.concat_tables(rows for _, rows in rewards.iter_shards(["reward"]))  # in the order of the rollouts
    earned = said.append_column("reward", labels["reward"]).join(asked, "prompt_id")
    means = earned.group_by("source").aggregate([("reward", "mean")]).to_pylist()
    return {str(row["source"]): float(row["reward_mean"]) for row in sorted(means, key=lambda row: str(row["source"]))}
