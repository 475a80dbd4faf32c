"""The ref_logprobs stage: log π_ref of stored trajectories, with the trainer's own scoring code.

The same function scores θ in training, so at θ = θ_ref the sum Σ_h (lp_h - ref_h) vanishes.
"""

import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import Experiment, stage_hash
from pipeline.config.policy import BuiltModel, HubModel, PolicyFolder, ReferenceConfig, ServerModel, named_policy
from pipeline.errors import ConfigError
from pipeline.policies.load_save import check_ids, check_table, device, load_model, refuse_large_on_cpu
from pipeline.policies.refs import (
    PolicyRef,
    check_undamaged,
    foreign_id,
    foreign_policy,
    policy_tokenizer,
    published,
    resolve_policy,
)
from pipeline.run.resumable import Stage, StageReport, Work, run_stage
from pipeline.run.shards import Advance, Make
from pipeline.store import SCHEMAS, Manifest, PartitionWriter, Store, open_store

REFERENCE_PARENT = "reference policy"
"""Parent of a `ref_logprobs` partition: the identity (`reference_id`) of the reference that scored it."""
DECIDES = (*ReferenceConfig.alike_fields("reference"), "policy.dtype", "training.temperature")
"""Fields in which the generations of an experiment are alike."""
_COLUMNS = ("trajectory_id", "prompt_token_ids", "response_token_ids", "response_mask")


def run_ref_logprobs(
    experiment: Experiment,
    store: Store,
    generation: int,
    dataset: str | None = None,
    label: str | None = None,
    replace: bool = False,
) -> StageReport:
    """Write table `ref_logprobs` (or `ref_logprobs@label`) beside the rollouts of one generation.

    `dataset` scores a logged data set (`logged/<name>`) instead of the experiment's own; its label is that of the
    reference by default. The logits are divided by `training.temperature`, as in training. Tokens that the environment
    wrote (`response_mask` false) get 0 and are left out of the sum. Raises StoreError when the rollouts are missing.
    """
    started = time.monotonic()
    dataset = dataset or experiment.name
    rollouts = store.partition(dataset, "rollouts", generation)
    source = rollouts.manifest()
    policy, temperature = reference_policy(store, experiment), experiment.training.temperature
    identity = _identity(policy.policy_id, temperature)
    if label is None and dataset != experiment.name:
        label = reference_label(identity)

    def work() -> Work:
        check_undamaged(policy)
        check_table(source, policy_tokenizer(policy.path), f"the reference {policy.policy_id}")
        return Work(
            rows=[shard.rows for shard in source.shards],
            start=partial(_scorer, experiment, store.root_for_workers, generation, dataset),
            statistics=lambda writer: _statistics(experiment, source, writer),
        )

    stage = Stage(
        name="ref_logprobs",
        partition=store.partition(dataset, f"ref_logprobs@{label}" if label else "ref_logprobs", generation),
        key=stage_hash(identity, experiment.policy.dtype, source.hash),
        parents={rollouts.name: source.hash, REFERENCE_PARENT: identity},
        work=work,
        unit="trajectories",
        alike=DECIDES if dataset == experiment.name and label is None else (),
    )
    return run_stage(store, stage, experiment, replace, started)


def reference_policy(store: Store, experiment: Experiment) -> PolicyRef:
    """π_ref of the experiment: policy[0], or the model named in `reference.policy`."""
    if experiment.reference.policy == "base":
        return resolve_policy(store, experiment, 0)
    return foreign_policy(_named(experiment))


def reference_id(store: Store, experiment: Experiment) -> str:
    """Identity of π_ref without its weights: its policy_id, and the temperature of its logits where that is not 1."""
    if experiment.reference.policy == "base":
        policy_id = str(published(store, experiment.name, 0)["policy_id"])
    else:
        policy_id = foreign_id(_named(experiment))
    return _identity(policy_id, experiment.training.temperature)


def _named(experiment: Experiment) -> PolicyFolder | BuiltModel | HubModel:
    named = named_policy(experiment.reference.policy, experiment.reference.revision)
    if isinstance(named, ServerModel):
        raise ConfigError(f"reference.policy: {named.address} is a server; π_ref is loaded, from a folder or the hub")
    return named


def _identity(policy_id: str, temperature: float) -> str:
    return policy_id if temperature == 1.0 else f"T{temperature:g} {policy_id}"


def reference_label(identity: str) -> str:
    """The label under which `ref_logprobs` of logged data sets are kept for one reference (`reference_id`).

    A logged data set serves several experiments, and each may have a reference of its own.
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "-", identity)[:64]


@contextmanager
def _scorer(experiment: Experiment, root: str, generation: int, dataset: str) -> Generator[Make]:
    """π_ref at work on shards, on whichever machine."""
    store = open_store(root)
    policy, rollouts = reference_policy(store, experiment), store.partition(dataset, "rollouts", generation)
    refuse_large_on_cpu(policy.path, experiment.large_model_on_cpu)
    model: Any = load_model(policy.path, experiment.policy).to(device())
    embedded = int(model.get_input_embeddings().weight.shape[0])

    def make(index: int, _: Advance) -> pa.Table:
        rows = rollouts.read_shard(index, _COLUMNS)
        check_ids(rows, embedded, rollouts.shard_path(index), f"the reference {policy.policy_id}")
        return _score_shard(model, policy, rows, experiment.reference.max_tokens, experiment.training.temperature)

    yield make


def _score_shard(model: Any, policy: PolicyRef, rows: pa.Table, max_tokens: int, temperature: float) -> pa.Table:
    from pipeline.scoring.scoring import score_trajectories

    columns = rows.to_pydict()
    masks = [
        np.ones(len(response), bool) if mask is None else np.asarray(mask, bool)
        for response, mask in zip(columns["response_token_ids"], columns["response_mask"], strict=True)
    ]
    scored = score_trajectories(
        model, columns["prompt_token_ids"], columns["response_token_ids"], max_tokens, masks, temperature
    )
    token_logprobs = [
        np.where(mask, logprobs, 0.0).astype(np.float32) for mask, (logprobs, _) in zip(masks, scored, strict=True)
    ]
    return pa.table(
        {
            "trajectory_id": columns["trajectory_id"],
            "ref_logprob_sum": [float(logprobs.sum(dtype=np.float64)) for logprobs in token_logprobs],
            "ref_token_logprobs": token_logprobs,
            "ref_value_first": [float(value) for _, value in scored],
            "ref_policy_id": [policy.policy_id] * rows.num_rows,
        },
        schema=SCHEMAS["ref_logprobs"],
    )


def _statistics(experiment: Experiment, rollouts: Manifest, writer: PartitionWriter) -> dict[str, float]:
    """Figures over all shards, those of an earlier interrupted run included."""
    shards = [writer.read(index, ["ref_logprob_sum", "ref_value_first"]) for index in range(len(rollouts.shards))]
    table = pa.concat_tables(shards)
    sum_mean = float(np.mean(table["ref_logprob_sum"].to_numpy()))
    return {
        "ref_logprob_sum_mean": sum_mean,
        "ref_value_first_mean": float(np.mean(table["ref_value_first"].to_numpy())),
        **_behaviour_kl(experiment, rollouts, sum_mean),
    }


def _behaviour_kl(experiment: Experiment, rollouts: Manifest, ref_logprob_sum_mean: float) -> dict[str, float]:
    """KL(behaviour policy || π_ref) in nats a response: the mean of Σ(log μ - log π_ref) over μ's own samples.

    Nothing where the stored log-probs are not those of the distribution that was sampled from.
    """
    sampled, stats = experiment.rollouts, rollouts.stats
    if sampled is None or (sampled.temperature, sampled.top_p, sampled.top_k) != (1.0, 1.0, 0):
        return {}
    if experiment.training.temperature != 1.0 or "entropy_per_token" not in stats:
        return {}
    logprob_sum_mean = -float(stats["entropy_per_token"]) * float(stats["response_tokens"]) / rollouts.rows
    return {"behaviour_kl": logprob_sum_mean - ref_logprob_sum_mean}
