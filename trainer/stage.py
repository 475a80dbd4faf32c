"""The train stage of a generation: resolve the replay mix, run the job, commit the policy folder."""

import itertools
import time
from pathlib import Path

from pipeline.config import Experiment, stage_hash
from pipeline.config.experiment import check_generation
from pipeline.errors import StoreError
from pipeline.mirror import local_root, upload
from pipeline.model_facts import refuse_large_on_cpu
from pipeline.policy import check_undamaged, resolve_policy, trained_policy_folder
from pipeline.replay import resolve_mix
from pipeline.stage import StageReport
from pipeline.store import Manifest, Store, exclusive
from pipeline.tokenizer import model_vocabulary
from trainer.carry import carried
from trainer.commit import committed, finish, forget, place, tidy, write_manifest
from trainer.data import write_trajectories
from trainer.job import TrainJob, train_policy
from trainer.metrics import summary
from trainer.sources import mix_tables

STATE = "training_state"
# How a job uses the machine and what it writes beside the policy: none of it decides what is learned.
NOT_IN_HASH = {
    *(
        "processes",
        "sequence_parallel",
        "machines",
        "machines_by",
        "offload",
        "zero_stage",
        "micro_batch_tokens",
        "head_chunk_tokens",
    ),
    *(
        "activation_checkpointing",
        "diagnostics_sample",
        "control_every",
        "control_sample",
        "checkpoint_every",
        "keep_checkpoints",
        "stop_grace_s",
        "collective_timeout_s",
        "monitor",
        "max_residual",
    ),
}


def run_train(experiment: Experiment, store: Store, generation: int, replace: bool = False) -> StageReport:
    """Train policy[generation] on its replay mix and commit the folder `trained_policy/generation=<gggg>`.

    The folder is an ordinary Hugging Face folder with `policy.json` (identity and parents), `training.json` (the
    configuration and exactly which shards and rows trained it), `metrics.jsonl` (one row an update) and a manifest.
    A killed run goes on from its newest good checkpoint. Raises StoreError when data or policy are missing, or the
    generation was committed with another configuration and `replace` is not given.
    """
    started = time.monotonic()
    check_generation(experiment, generation)
    states = local_root(store) / experiment.name / STATE
    state = states / f"generation={generation:04d}"
    folder = trained_policy_folder(store, experiment.name, generation)
    policy = resolve_policy(store, experiment, generation)
    mix = resolve_mix(store, experiment, generation)
    mix_tree = mix.to_json()
    training = experiment.training.model_dump(mode="json")
    decisive = {name: value for name, value in training.items() if name not in NOT_IN_HASH}
    config_hash = stage_hash(decisive, experiment.policy.dtype, experiment.seed, policy.policy_id, mix_tree)
    with exclusive(str(state)):
        manifest = None if replace else committed(folder)
        if manifest is not None and manifest.config_hash == config_hash:
            upload(store, folder)
            return _report(manifest, started, skipped=True)
        carry = carried(experiment, states, generation, policy.policy_id)
        if folder.exists():
            _make_room(folder, manifest, config_hash, replace)
            forget(state)
        check_undamaged(policy)
        refuse_large_on_cpu(policy.path, experiment.large_model_on_cpu)
        rows = write_trajectories(mix_tables(store, mix, model_vocabulary(policy.path)), experiment.training, state)
        job = TrainJob(
            label=f"train[{generation}]",
            start=Path(policy.path),
            state=state,
            model=experiment.policy,
            training=experiment.training,
            updates=experiment.training.updates_per_generation,
            seed=experiment.seed + generation,
            config_hash=config_hash,
            carry=carry,
        )
        result = train_policy(job)
        parents = {**mix.parents, f"{experiment.name}/policy/generation={generation:04d}": policy.policy_id}
        segments = _stage_seconds(experiment, store, generation) | result.seconds
        stats = summary(result.metrics, segments) | {"trajectories": rows, "seconds": time.monotonic() - started}
        finish(job, {"training": training, "mix": mix_tree, "stats": stats}, parents)
        manifest = write_manifest(job, experiment.name, generation, parents, stats)
        place(job, folder)
        upload(store, folder)
        tidy(states, generation)
    return _report(manifest, started, skipped=False)


def _stage_seconds(experiment: Experiment, store: Store, generation: int) -> dict[str, float]:
    """The paper's time segments that are stages of their own here, as far as this generation had them."""
    found: dict[str, float] = {}
    for segment, table in (("rollout", "rollouts"), ("ref_prob", "ref_logprobs")):
        partition = store.partition(experiment.name, table, generation)
        if partition.is_committed():
            found[segment] = float(partition.manifest().stats.get("seconds", 0.0))
    return found


def _make_room(folder: Path, manifest: Manifest | None, config_hash: str, replace: bool) -> None:
    """Move what is there aside, damaged or not, when `replace` is given."""
    if not replace and manifest is not None:
        raise StoreError(
            f"{folder} was trained with other settings or on other data ({manifest.config_hash}, now {config_hash}). "
            "Add --replace to train it anew; the old policy is kept beside it"
        )
    if not replace:
        raise StoreError(
            f"{folder} has no manifest: restore it. Add --replace to train the policy anew; what is there is kept "
            "beside it"
        )
    for number in itertools.count():
        aside = folder.with_name(f"{folder.name}.replaced-{number}")
        if not aside.exists():
            folder.rename(aside)
            return


def _report(manifest: Manifest, started: float, skipped: bool) -> StageReport:
    rows = int(manifest.stats["trajectories"])
    return StageReport(
        "train", manifest.dataset, manifest.generation, rows, time.monotonic() - started, skipped, manifest.stats
    )
