"""The warm start: the same job with the objective `imitation` over a logged data set."""

import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.config import Experiment, stage_hash
from pipeline.config.policy import WarmStart
from pipeline.config.training import TrainingConfig
from pipeline.errors import StoreError
from pipeline.policies.load_save import check_table, model_vocabulary, refuse_large_on_cpu
from pipeline.policies.refs import local_root, policy_tokenizer
from pipeline.run.resumable import StageReport
from pipeline.store import Store, exclusive
from trainer.data.trajectories import logged_tables, write_trajectories
from trainer.job import TrainJob
from trainer.loop.metrics import summary
from trainer.loop.worker import train_policy
from trainer.stages.policy_folder import STATE, finish, forget, place


def run_imitation(
    experiment: Experiment,
    store: Store,
    start: Path,
    out: Path,
    warm: WarmStart,
    parents: Mapping[str, str] | None = None,
) -> StageReport:
    """From the model in `start`, imitate the responses of `logged/<warm.logged>`; write the Hugging Face folder `out`.

    The loss is the mean negative log-likelihood of a response; `warm.batch` counts trajectories. `out` must not exist;
    it appears whole or not at all, with `policy.json` (parents: `parents` and the data's manifests), `training.json`
    and `metrics.jsonl`. A killed run goes on from its newest good checkpoint. Raises StoreError without the data set.
    """
    started = time.monotonic()
    dataset = f"logged/{warm.logged}"
    training = imitation_config(experiment.training, warm)
    partitions = [store.partition(dataset, "rollouts", g) for g in store.generations(dataset, "rollouts")]
    if not partitions:
        raise StoreError(f"policy.warm_start.logged: {dataset} holds no committed rollouts; write or import them first")
    refuse_large_on_cpu(str(start), experiment.large_model_on_cpu)
    own = policy_tokenizer(str(start))
    for partition in partitions:
        check_table(partition.manifest(), own, f"the base model in {start}")
    manifests = {p.name: p.manifest().hash for p in partitions}
    state = local_root(store) / experiment.name / STATE / "imitation"
    with exclusive(str(state)):
        rows = write_trajectories(logged_tables(partitions, model_vocabulary(str(start))), training, state)
        job = TrainJob(
            label="imitation",
            start=start,
            state=state,
            model=experiment.policy,
            training=training,
            updates=warm.steps,
            seed=experiment.seed,
            config_hash=stage_hash(warm, experiment.policy.dtype, experiment.seed, manifests, str(training.lora)),
        )
        result = train_policy(job)
        stats = summary(result.metrics, result.seconds) | {"trajectories": rows, "seconds": time.monotonic() - started}
        finish(job, {"training": training.model_dump(mode="json"), "stats": stats}, {**(parents or {}), **manifests})
        place(job, out)
        forget(state)
    return StageReport("imitation", experiment.name, 0, rows, time.monotonic() - started, False, stats)


def imitation_config(training: TrainingConfig, warm: WarmStart) -> TrainingConfig:
    """The experiment's use of the machine with the warm start's own objective, batch and learning rate."""
    machine = training.model_dump(exclude=set(training.deciding()) - {"grad_clip", "lora"})
    return TrainingConfig.model_validate(
        machine
        | {
            "objective": "imitation",
            "learning_rate": warm.learning_rate,
            "warmup_updates": warm.steps // 10,
            "learning_rate_decay": "linear",
            "prompt_batch": warm.batch,
            "updates_per_generation": warm.steps,
        }
    )
