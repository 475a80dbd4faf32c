"""The train stage of a generation: resolve the replay mix, run the job, commit the policy folder and publish it."""

import logging
import time
from pathlib import Path

from pipeline.config import Experiment, stage_hash
from pipeline.config.experiment import check_generation
from pipeline.errors import StoreError
from pipeline.policies.load_save import model_vocabulary, refuse_large_on_cpu
from pipeline.policies.refs import (
    check_undamaged,
    local_root,
    pointer_path,
    policy_folder,
    publish_policy,
    published,
    read_policy_json,
    resolve_policy,
    trained_policy_folder,
    upload,
)
from pipeline.replay.mix import resolve_mix
from pipeline.run.configurations import (
    branch,
    first_generation,
    keep_configuration,
    listed,
)
from pipeline.run.resumable import StageReport
from pipeline.run.tracking import tracked
from pipeline.store import Manifest, Store, exclusive
from trainer.data.trajectories import check_all_tokens_sampled, mix_tables, write_trajectories
from trainer.job import TrainJob
from trainer.loop.metrics import summary
from trainer.loop.worker import train_policy
from trainer.stages.policy_folder import (
    STATE,
    carried,
    check_alike,
    committed,
    differences_of,
    finish,
    keep,
    place,
    standing_on,
    tidy,
    training_tree,
    write_manifest,
)


def run_train(experiment: Experiment, store: Store, generation: int, replace: bool = False) -> StageReport:
    """Train policy[generation] on its replay mix, commit `trained_policy/generation=<gggg>`, publish policy[g+1].

    The policy is an ordinary Hugging Face folder, `policies/<policy_id>`. Its record in `trained_policy` holds
    `policy.json` (identity and parents), `training.json` (the configuration and exactly which shards and rows trained
    it), `metrics.jsonl` (one row an update) and a manifest.
    A killed run goes on from its newest good checkpoint. Nothing of an old policy changes: the pointer policy[g+1] is
    turned when the new one is whole.
    A policy whose weights are those it started from is not published.

    Raises StoreError when data or policies are missing, when the generation was committed with another configuration
    and `replace` is not given, when other generations were trained by other settings, and, with `replace`, when later
    generations stand on the old policy and the new one would be, or is, another.
    """
    started = time.monotonic()
    check_generation(experiment, generation)
    states = local_root(store) / experiment.name / STATE / f"generation={generation:04d}"
    folder = trained_policy_folder(store, experiment.name, generation)
    policy = resolve_policy(store, experiment, generation)
    mix = resolve_mix(store, experiment, generation)
    mix_tree = mix.to_json()
    training = experiment.training
    config_hash = stage_hash(training.deciding(), experiment.policy.dtype, experiment.seed, policy.policy_id, mix_tree)
    with exclusive(str(states)):
        manifest = None if replace else committed(folder)
        if manifest is not None and manifest.config_hash == config_hash:
            _publish(store, experiment.name, generation, folder)
            return _report(manifest, started, skipped=True)
        check_alike(store, experiment, generation)
        if folder.exists():
            _check_replaceable(store, experiment, generation, folder, config_hash, replace)
        first = first_generation(store, experiment.name)
        carry = carried(experiment, states.parent, generation, policy.policy_id, first)
        if carry is None and generation > first and folder.exists():
            _check_nothing_lost(experiment, states.parent, generation, folder)
        check_undamaged(policy)
        refuse_large_on_cpu(policy.path, experiment.large_model_on_cpu)
        check_all_tokens_sampled(store, mix, training)
        state = states / config_hash
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
            tracked=tracked(experiment, store) if experiment.tracker != "none" else None,
            updates_before=generation * training.updates_per_generation,
            carry=carry,
        )
        result = train_policy(job)
        parents = {**mix.parents, f"{experiment.name}/policy/generation={generation:04d}": policy.policy_id}
        segments = _stage_seconds(experiment, store, generation) | result.seconds
        stats = summary(result.metrics, segments) | {"trajectories": rows, "seconds": time.monotonic() - started}
        tree = {
            "training": training.model_dump(mode="json"),
            "mix": mix_tree,
            "stats": stats,
            "carried": carry is not None,
        }
        policy_id = finish(job, tree, parents)
        _check_stood_on(store, experiment.name, generation, policy_id)
        configuration = keep_configuration(store, experiment)
        manifest = write_manifest(job, experiment.name, generation, parents, stats, configuration)
        keep(job, store, experiment.name)
        place(job, folder)
        _publish(store, experiment.name, generation, folder)
        tidy(state)
    return _report(manifest, started, skipped=False)


def _check_replaceable(
    store: Store, experiment: Experiment, generation: int, folder: Path, config_hash: str, replace: bool
) -> None:
    """Raise StoreError where the policy in `folder` may not be trained anew."""
    if not replace:
        found = differences_of(store, experiment, generation)
        manifest = committed(folder)
        if manifest is None:
            raise StoreError(
                f"{folder} has no manifest: restore it. Add --replace to train the policy anew; what is there is kept "
                "beside it"
            )
        how = f":\n{listed(found)}\n" if found else f" ({manifest.config_hash}, now {config_hash}). "
        raise StoreError(
            f"{folder} was trained {'with other settings' if found else 'on other data'}{how}Add --replace to train it "
            f"anew (the old policy is kept beside it), or start another experiment: {branch(experiment.name)}"
        )
    later = standing_on(store, experiment.name, generation + 1)
    if not later:
        return
    try:
        manifest = committed(folder)
    except StoreError:
        return  # a damaged folder: `_check_stood_on` compares the result with what was published
    if manifest is not None and manifest.config_hash != config_hash:
        found = differences_of(store, experiment, generation)
        raise StoreError(
            f"{later} of {experiment.name} came from policy[{generation + 1}], so trained_policy[{generation}] cannot "
            f"be trained otherwise: {'settings' if found else 'data'} differ"
            + (f":\n{listed(found)}\n" if found else f" ({manifest.config_hash}, now {config_hash}). ")
            + f"Start another experiment from policy[{generation}]: `tbrm run {experiment.name} --set … --name NEW "
            f"--fork-from {generation}`"
        )


def _check_nothing_lost(experiment: Experiment, states: Path, generation: int, folder: Path) -> None:
    """Raise StoreError where a policy went on from AdamW's state of the generation before, and that is gone."""
    if experiment.training.optimizer_state == "fresh" or training_tree(folder).get("carried") is False:
        return
    raise StoreError(
        f"{folder} went on from the optimizer state of generation {generation - 1}, which {states} no longer holds: "
        f"trained anew it would be another policy. Restore the policy or that state, or start another experiment from "
        f"policy[{generation}]: `tbrm run {experiment.name} --name NEW --fork-from {generation}`"
    )


def _check_stood_on(store: Store, name: str, generation: int, policy_id: str) -> None:
    """Raise StoreError where the new policy would take the place of another that later generations stand on."""
    if not store.fs.exists(pointer_path(store, name, generation + 1)):
        return
    before = published(store, name, generation + 1)["policy_id"]
    later = standing_on(store, name, generation + 1)
    if later and before != policy_id:
        raise StoreError(
            f"{later} of {name} came from policy[{generation + 1}], which is {before}; the training gave {policy_id}. "
            "What was there is unchanged. Restore the old policy from a copy, or start another experiment from "
            f"policy[{generation}]: `tbrm run {name} --name NEW --fork-from {generation}`"
        )


def _publish(store: Store, name: str, generation: int, folder: Path) -> None:
    """Publish trained_policy[g] as policy[g+1], unless the training changed nothing. No other place publishes it.

    It replaces a policy that was published there before, after `_check_stood_on` found nothing that stands on that one.
    """
    policy = read_policy_json(folder)
    home = policy_folder(store, name, policy["policy_id"])
    if not home.exists():
        home = folder  # an earlier version kept the weights in the record
    upload(store, home)
    upload(store, folder)
    before = published(store, name, generation)["policy_id"]
    if policy["policy_id"] == before:
        logging.getLogger(__name__).warning(
            "policy[%d] is not published: training changed nothing, it still is %s", generation + 1, before
        )
        return
    _check_stood_on(store, name, generation, policy["policy_id"])
    manifest = committed(folder)
    configuration = manifest.configuration if manifest is not None else None
    publish_policy(store, name, generation + 1, home, policy["parents"], True, configuration)


def _stage_seconds(experiment: Experiment, store: Store, generation: int) -> dict[str, float]:
    """Seconds of the paper's time segments that are stages of their own here, where this generation had the stage."""
    found: dict[str, float] = {}
    for segment, table in (("rollout", "rollouts"), ("ref_prob", "ref_logprobs")):
        partition = store.partition(experiment.name, table, generation)
        if partition.is_committed():
            found[segment] = float(partition.manifest().stats.get("seconds", 0.0))
    return found


def _report(manifest: Manifest, started: float, skipped: bool) -> StageReport:
    rows = int(manifest.stats["trajectories"])
    return StageReport(
        "train", manifest.dataset, manifest.generation, rows, time.monotonic() - started, skipped, manifest.stats
    )
