"""The evaluation stage: responses of policy[k] to the benchmarks, graded into `scores/generation=<k>`."""

# pyright: reportUnknownParameterType=false
# (pyarrow ships no types)

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import replace as changed_copy

import pyarrow as pa

from evals.run.answers import Answerer
from evals.run.grading import grade_responses, verifier_versions
from evals.run.plan import Entry, Setting, plan_entries, rewards_for, setting_of
from evals.run.responses import Sampler, engines_of, write_responses
from evals.run.scores import EntryRecord, measured_policies, read_entries, scores_of_table
from evals.run.targets import Target
from evals.statistics.metrics import summarize
from pipeline.config import Experiment, stage_hash
from pipeline.config.experiment import check_generation
from pipeline.errors import StoreError
from pipeline.policies.refs import PolicyRef, check_undamaged, resolve_published
from pipeline.prompts.templates import template_version
from pipeline.rewards import GradeItem, Grader
from pipeline.run.report import StageReport
from pipeline.store import Manifest, Partition, Stat, Store


def run_evaluate(
    experiment: Experiment,
    store: Store,
    generation: int,
    benchmarks: Sequence[str] = (),
    source: str | None = None,
    replace: bool = False,
) -> StageReport:
    """Measure policy[`generation`] of an experiment on its benchmarks (or on `benchmarks`). See `evaluate`."""
    check_generation(experiment, generation, policies=True)
    setting = setting_of(experiment)
    target = Target(resolve_published(store, experiment.name, generation), experiment.name, generation)
    return evaluate(setting, store, target, plan_entries(setting, benchmarks, source), replace)


def evaluate(
    setting: Setting,
    store: Store,
    target: Target,
    entries: Sequence[Entry],
    replace: bool = False,
    answerer: Answerer | None = None,
) -> StageReport:
    """Write the policy's `scores`; entries scored already with the same protocol and verifier are not done again.

    Further entries join those that the partition holds; an entry whose protocol or verifier changed needs `replace`.
    Scores of another policy, which was published under the same number before, are moved aside.
    A killed run goes on at the first missing shard of responses. `answerer` answers instead of the policy's own engine:
    responses made elsewhere go through the same harness.
    Raises TbrmError for unknown benchmarks or verifiers, StoreError for a changed entry without `replace`.
    """
    started = time.monotonic()
    partition = store.partition(target.dataset, "scores", target.generation)
    there, keys, todo = _open(setting, store, target, entries)
    if not todo:
        return report_of("evaluate", partition.manifest(), started, skipped=True)
    if there and measured_policies(partition) != {target.policy.policy_id}:
        there, replace = {}, True  # of a policy that this one took the place of: kept aside, and none of them joins
    changed = [entry.name for entry in todo if entry.name in there]
    if changed and not replace:
        raise StoreError(
            f"{partition.name} holds scores of {', '.join(changed)} by another protocol or verifier. "
            "Add --replace to measure again; the old scores are kept beside it"
        )
    if isinstance(target.policy, PolicyRef):
        check_undamaged(target.policy)
    sampler = Sampler(setting, target.policy, answerer)
    kept = [record for name, record in there.items() if name not in {entry.name for entry in todo}]
    tables = [partition.read_shard(index) for record in kept for index in record.shards]
    parents = {record.responses: record.responses_hash for record in kept}
    records = list(_renumbered(kept))
    sampled = [(entry, *write_responses(store, target, entry, setting, sampler)) for entry in todo]
    sampler.close()
    with Grader(rewards_for(setting, todo)) as grader:  # `_open` has looked at what each entry's problems name
        for entry, responses, manifest in sampled:
            graded = list(grade_responses(grader, responses))
            first = len(tables)
            tables += graded
            parents[responses.name] = manifest.hash
            records.append(
                EntryRecord(
                    name=entry.name,
                    key=keys[entry.name],
                    protocol=asdict(entry.protocol),
                    problems_hash=entry.problems_hash,
                    responses=responses.name,
                    responses_hash=manifest.hash,
                    first_shard=first,
                    shard_count=len(graded),
                    flawed=entry.flawed,
                    remark=entry.remark,
                    policy_id=target.policy.policy_id,
                    engine=engines_of(responses),
                    template_version=template_version(entry.protocol.template),
                )
            )
    manifest = write_scores(partition, tables, records, parents, partition.is_committed())
    return report_of("evaluate", manifest, started, skipped=False)


def is_scored(setting: Setting, store: Store, target: Target, entries: Sequence[Entry]) -> bool:
    """Whether the policy's scores of all entries are there, by the same protocols and verifiers."""
    return not _open(setting, store, target, entries)[2]


def _open(
    setting: Setting, store: Store, target: Target, entries: Sequence[Entry]
) -> tuple[dict[str, EntryRecord], dict[str, str], list[Entry]]:
    """(what the partition holds, the key of each entry, the entries whose scores are absent or have another key)."""
    partition = store.partition(target.dataset, "scores", target.generation)
    there = read_entries(partition) if partition.is_committed() else {}
    keys = {entry.name: _scored_key(entry, setting, target) for entry in entries}
    todo = [entry for entry in entries if entry.name not in there or there[entry.name].key != keys[entry.name]]
    return there, keys, todo


def write_scores(
    partition: Partition,
    tables: Sequence[pa.Table],
    records: Sequence[EntryRecord],
    parents: dict[str, str],
    replace: bool,
) -> Manifest:
    """Commit graded responses; headline numbers of each entry, with their intervals, go into the manifest's stats."""
    config_hash = stage_hash(*(record.key for record in records))
    with partition.writer(config_hash, parents, replace) as writer:
        for index, table in enumerate(tables):
            writer.write(index, table)
        stats: dict[str, Stat] = {}
        for record in records:
            rows = pa.concat_tables([tables[index] for index in record.shards])
            stats |= summarize(scores_of_table(rows, record)).to_stats(record.name)
        stats["entries"] = json.dumps([asdict(record) for record in records], sort_keys=True)
        return writer.commit(len(tables), stats)


def _scored_key(entry: Entry, setting: Setting, target: Target) -> str:
    """Names the scores of an entry: its responses, and how they are graded."""
    items = [GradeItem("", "", problem.verifier, problem.extra) for problem in entry.problems]
    with Grader(rewards_for(setting, [entry])) as grader:  # its workers start only when something is graded
        versions = verifier_versions(grader, items)
    return stage_hash(entry.key(target.policy.policy_id, setting), setting.rewards.deciding(), versions)


def _renumbered(records: Sequence[EntryRecord]) -> list[EntryRecord]:
    """The records with their shards moved together, in order."""
    moved: list[EntryRecord] = []
    first = 0
    for record in records:
        moved.append(changed_copy(record, first_shard=first))
        first += record.shard_count
    return moved


def report_of(stage: str, manifest: Manifest, started: float, skipped: bool) -> StageReport:
    return StageReport(
        stage,
        manifest.dataset,
        manifest.generation,
        manifest.rows,
        time.monotonic() - started,
        skipped,
        {name: value for name, value in manifest.stats.items() if name != "entries"},
    )
