"""The rewards stage: rollout shard k and prompt shard k become reward shard k."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import pyarrow as pa

from pipeline.config import Experiment, changed_experiment, stage_hash
from pipeline.config.experiment import declared_rewards
from pipeline.config.rewards import RewardsConfig
from pipeline.policies.refs import published_tokenizer
from pipeline.policies.tokenizer import check_table
from pipeline.rewards.audit import audit_generation
from pipeline.rewards.grader import Grader
from pipeline.rewards.reading import Labelled, named_items, read_items
from pipeline.rewards.types import STATUSES, UNDECIDED, RewardLabel, Verifier
from pipeline.run.configurations import check_alike, keep_configuration
from pipeline.run.progress import track
from pipeline.run.report import StageReport
from pipeline.run.shards import on_cluster, root_for_workers, work_through
from pipeline.store import SCHEMAS, Manifest, Partition, PartitionWriter, Stat, Store, open_store

Place = tuple[str, str, int]
DECIDES = tuple(f"rewards.{name}" for name in RewardsConfig.deciding_fields())
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
    partition = store.partition(dataset, f"rewards@{label}" if label else "rewards", generation)
    with Grader(config) as grader:
        versions = {found.name: found.version for found in _verifiers(grader, prompts, verifier)}
        config_hash = stage_hash(config.deciding(), versions, verifier or "", source.hash, questions.hash)
        if not replace and partition.is_committed() and (manifest := partition.manifest()).config_hash == config_hash:
            return _report(manifest, started, skipped=True)
        if dataset == experiment.name and label is None:
            check_alike(store, experiment, "rewards", generation, DECIDES, replace, label_of_rows=True)
        parents = {rollouts.name: source.hash, prompts.name: questions.hash}
        with (
            partition.writer(config_hash, parents, replace, keep_configuration(store, experiment)) as writer,
            track(f"rewards[{generation}]", source.rows, "responses") as progress,
        ):
            todo = [index for index in range(len(source.shards)) if not writer.is_done(index)]
            progress.advance(source.rows - sum(source.shards[index].rows for index in todo))
            if on_cluster(experiment, "rewards"):
                build = partial(_Labeller, config, root_for_workers(store), _place(rollouts), _place(prompts), verifier)
                for index, labelled in work_through(experiment, "rewards", build, todo):
                    writer.write(index, labelled)
                    progress.advance(labelled.num_rows)
                todo = []
            for index in todo:
                writer.write(index, _label_shard(grader, rollouts, prompts, index, verifier, progress.advance))
            stats = _statistics(writer, len(source.shards))
            if config.audit_sample:
                audit = audit_generation(config, rollouts, writer.read, len(source.shards), config.audit_sample)
                stats["audit_disagreement_share"] = audit.disagreement_share
                stats["audit_rewarded_but_called_wrong"] = len(audit.rewarded)
            if grader.protections is not None:
                stats["sandbox"] = grader.protections.describe()
            stats |= {"rows_sent_to_workers": grader.graded, "seconds": time.monotonic() - started}
            manifest = writer.commit(len(source.shards), stats)
    return _report(manifest, started, skipped=False)


class _Labeller:
    """Grading workers on another machine: see `scale_out.ShardWork`. Partitions are (data set, table, generation)."""

    def __init__(self, config: RewardsConfig, root: str, rollouts: Place, prompts: Place, verifier: str | None) -> None:
        store = open_store(root)
        self.rollouts, self.prompts = store.partition(*rollouts), store.partition(*prompts)
        self.grader, self.verifier = Grader(config).__enter__(), verifier

    def make(self, index: int) -> pa.Table:
        return _label_shard(self.grader, self.rollouts, self.prompts, index, self.verifier)

    def close(self) -> None:
        self.grader.__exit__(None, None, None)


def _place(partition: Partition) -> Place:
    return partition.dataset, partition.table, partition.generation


def _label_shard(
    grader: Grader,
    rollouts: Partition,
    prompts: Partition,
    index: int,
    verifier: str | None,
    after_each: Callable[[], None] = lambda: None,
) -> pa.Table:
    rows = read_items(rollouts, prompts, index, verifier, grader.config.token_rewards)
    labels: list[RewardLabel] = []
    for graded in grader.grade(row.item for row in rows):
        labels.append(graded)
        after_each()
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


def _statistics(writer: PartitionWriter, shards: int) -> dict[str, Stat]:
    """Figures over all shards, those of an earlier interrupted run included."""
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
    return stats | {f"{name}_mean": value / total for name, value in sorted(sums.items())}


def _report(manifest: Manifest, started: float, skipped: bool) -> StageReport:
    seconds = time.monotonic() - started
    dataset, generation = manifest.dataset, manifest.generation
    return StageReport("rewards", dataset, generation, manifest.rows, seconds, skipped, manifest.stats)
