"""The rewards stage: rollout shard k and prompt shard k become reward shard k."""

import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import partial

import pyarrow as pa

from pipeline.config import Experiment, changed_experiment, stage_hash
from pipeline.config.experiment import declared_rewards
from pipeline.config.rewards import RewardsConfig
from pipeline.policies.load_save import check_table
from pipeline.policies.refs import published_tokenizer
from pipeline.rewards.audit import audit_generation
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import STATUSES, UNDECIDED, Labelled, RewardLabel, Verifier, named_items, read_items
from pipeline.run.resumable import Stage, StageReport, Work, run_stage
from pipeline.run.shards import Advance, Make
from pipeline.store import SCHEMAS, Partition, PartitionWriter, Stat, Store, open_store

DECIDES = RewardsConfig.alike_fields("rewards")
"""Fields in which the generations of an experiment are alike."""


def run_rewards(
    experiment: Experiment,
    store: Store,
    generation: int,
    dataset: str | None = None,
    label: str | None = None,
    verifier: str | None = None,
    replace: bool = False,
) -> StageReport:
    """Write table `rewards` (or `rewards@label`) beside the rollouts of one generation.

    `dataset` labels a logged data set (`logged/<name>`) instead of the experiment's own rollouts. `verifier` grades
    every row, whatever its prompt names. A killed run goes on at the first missing shard.
    Raises StoreError when rollouts are missing, TbrmError when prompts name undeclared code.
    """
    started = time.monotonic()
    dataset = dataset or experiment.name
    rollouts = store.partition(dataset, "rollouts", generation)
    prompts = store.partition(dataset, "prompts", generation)
    source, questions = rollouts.manifest(), prompts.manifest()
    check_table(source, published_tokenizer(store, experiment.name, 0), f"policy[0] of {experiment.name}")
    if verifier:
        experiment = changed_experiment(experiment, [f"rewards.verifier={verifier}"])
    config = declared_rewards(experiment)
    with Grader(config) as grader:
        versions = {found.name: found.version for found in _verifiers(grader, prompts, verifier)}
        stage = Stage(
            name="rewards",
            partition=store.partition(dataset, f"rewards@{label}" if label else "rewards", generation),
            key=stage_hash(config.deciding(), versions, verifier or "", source.hash, questions.hash),
            parents={rollouts.name: source.hash, prompts.name: questions.hash},
            work=lambda: Work(
                rows=[shard.rows for shard in source.shards],
                start=partial(_labeller, config, store.root_for_workers, dataset, generation, verifier)
                if experiment.on_cluster("rewards")
                else lambda: nullcontext(partial(_label_shard, grader, rollouts, prompts, verifier)),
                statistics=lambda writer: _statistics(grader, rollouts, writer),
            ),
            unit="responses",
            alike=DECIDES if dataset == experiment.name and label is None else (),
        )
        return run_stage(store, stage, experiment, replace, started)


@contextmanager
def _labeller(config: RewardsConfig, root: str, dataset: str, generation: int, verifier: str | None) -> Generator[Make]:
    """What labels on another machine, with grading workers of its own."""
    store = open_store(root)
    rollouts, prompts = (store.partition(dataset, table, generation) for table in ("rollouts", "prompts"))
    with Grader(config) as grader:
        yield partial(_label_shard, grader, rollouts, prompts, verifier)


def _label_shard(
    grader: Grader, rollouts: Partition, prompts: Partition, verifier: str | None, index: int, advance: Advance
) -> pa.Table:
    rows = read_items(rollouts, prompts, index, verifier, grader.config.token_rewards)
    labels: list[RewardLabel] = []
    for graded in grader.grade(row.item for row in rows):
        labels.append(graded)
        advance(1)
    return _table(rows, labels, grader)


def _verifiers(grader: Grader, prompts: Partition, verifier: str | None) -> list[Verifier]:
    """The verifiers that will grade the partition's rows. Raises TbrmError for one, or a task, that is not declared."""
    found: dict[str, Verifier] = {}
    for index in range(len(prompts.manifest().shards)):
        for item in named_items(prompts, index, verifier):
            used = grader.verifier_of(item)
            found[used.name] = used
    return [found[name] for name in sorted(found)]


def _table(rows: list[Labelled], labels: list[RewardLabel], grader: Grader) -> pa.Table:
    """One reward shard, in the order of the rollout shard."""
    records = [
        {
            "trajectory_id": row.trajectory_id,
            "reward": label.reward,
            "status": label.status,
            "extracted_answer": label.extracted_answer,
            "verifier": (verifier := grader.verifier_of(row.item)).name,
            "verifier_version": verifier.version,
            "detail": label.detail,
            "components": list(label.components.items()),
            "token_rewards": label.token_rewards,
        }
        for row, label in zip(rows, labels, strict=True)
    ]
    return pa.Table.from_pylist(records, SCHEMAS["rewards"])


def _statistics(grader: Grader, rollouts: Partition, writer: PartitionWriter) -> dict[str, Stat]:
    """Figures over all shards, those of an earlier interrupted run included."""
    shards = len(rollouts.manifest().shards)
    rows = pa.concat_tables([writer.read(index, ["reward", "status", "components"]) for index in range(shards)])
    counts = Counter(rows["status"].to_pylist())
    rewards = rows["reward"].to_numpy()
    total = max(rows.num_rows, 1)
    stats: dict[str, Stat] = {
        "reward_mean": float(rewards.mean()) if len(rewards) else 0.0,
        "reward_std": float(rewards.std()) if len(rewards) else 0.0,
        "undecided_share": sum(counts[status] for status in UNDECIDED) / total,
    }
    stats |= {f"status_{status}": counts[status] for status in STATUSES}
    sums: dict[str, float] = {}
    for parts in rows["components"].to_pylist():
        for name, value in parts or ():
            sums[name] = sums.get(name, 0.0) + value
    stats |= {f"{name}_mean": value / total for name, value in sorted(sums.items())}
    config = grader.config
    if config.audit_sample:
        audit = audit_generation(config, rollouts, writer.read, shards, config.audit_sample)
        stats["audit_disagreement_share"] = audit.disagreement_share
        stats["audit_rewarded_but_called_wrong"] = len(audit.rewarded)
    if grader.protections is not None:
        stats["sandbox"] = grader.protections.describe()
    return stats | {"rows_sent_to_workers": grader.graded}
