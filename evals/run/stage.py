"""The evaluation stage: responses of policy[k] to the benchmarks, graded into `scores/generation=<k>`."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import replace as changed_copy

from evals.run.answers import Answerer
from evals.run.grading import grade_responses, report_of, verifier_versions, write_scores
from evals.run.plan import Entry, Setting, plan_entries, plan_protocols, rewards_for, setting_of
from evals.run.responses import Sampler, engines_of, write_responses
from evals.run.targets import Target, foreign_target
from evals.statistics.scores import EntryRecord, is_measured, measured_policies, read_entries
from pipeline.config import Experiment, stage_hash
from pipeline.config.experiment import check_generation
from pipeline.errors import StoreError
from pipeline.policies.refs import PolicyRef, check_undamaged, resolve_published
from pipeline.prompts.generation import template_version
from pipeline.rewards.grader import Grader
from pipeline.rewards.types import GradeItem
from pipeline.run.configurations import Difference
from pipeline.run.resumable import Metric, StageReport
from pipeline.store import Store


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
    A killed run goes on at the first missing shard of responses. `answerer` answers instead of the policy's own engine,
    so that responses made elsewhere go through the same harness.
    Raises TbrmError for unknown benchmarks or verifiers, StoreError for a changed entry without `replace`.
    """
    started = time.monotonic()
    partition = store.partition(target.dataset, "scores", target.generation)
    there, keys, todo = _open(setting, store, target, entries)
    if not todo:
        return report_of("evaluate", partition.manifest(), started, skipped=True)
    if there and measured_policies(partition) != {target.policy.policy_id}:
        there, replace = {}, True  # these scores are of a policy that this one replaced: they are moved aside whole
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
    with Grader(rewards_for(setting, todo)) as grader:  # `_open` has checked which verifiers the problems name
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


def is_evaluated(experiment: Experiment, store: Store, generation: int) -> bool:
    """Whether policy[`generation`], as it is published now, has scores of all benchmarks of the experiment."""
    there = _measured(store, experiment, generation)
    return bool(there) and plan_protocols(setting_of(experiment)).keys() <= there.keys()


def differences_of_scores(experiment: Experiment, store: Store, generation: int) -> list[Difference]:
    """Where the scores of policy[`generation`] were made by another protocol than the experiment's benchmarks have now.

    None where the scores are of a policy that another one has replaced: they are measured anew.
    """
    if not (there := _measured(store, experiment, generation)):
        return []
    now = {name: asdict(protocol) for name, protocol in plan_protocols(setting_of(experiment)).items()}
    return [
        Difference(f"evaluation.protocols.{name}.{field}", before, now[name][field])
        for name in now
        if name in there
        for field, before in there[name].protocol.items()
        if before != now[name].get(field, before)
    ]


def _measured(store: Store, experiment: Experiment, generation: int) -> dict[str, EntryRecord]:
    """The entries that policy[`generation`], as it is published now, was measured on; none where it was not."""
    if not is_measured(store, experiment.name, generation):
        return {}
    return read_entries(store.partition(experiment.name, "scores", generation))


def _open(
    setting: Setting, store: Store, target: Target, entries: Sequence[Entry]
) -> tuple[dict[str, EntryRecord], dict[str, str], list[Entry]]:
    """(what the partition holds, the key of each entry, the entries whose scores are absent or have another key)."""
    partition = store.partition(target.dataset, "scores", target.generation)
    there = read_entries(partition) if partition.is_committed() else {}
    keys = {entry.name: _scored_key(entry, setting, target) for entry in entries}
    todo = [entry for entry in entries if entry.name not in there or there[entry.name].key != keys[entry.name]]
    return there, keys, todo


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


def pinned_targets(experiment: Experiment) -> Sequence[Target]:
    """The pinned policies. Held-out problems and templates are the experiment's; tables lie under `evaluated/`."""
    pinned = experiment.evaluation.pinned if experiment.evaluation else ()
    return [foreign_target(path, experiment.named_servers) for path in pinned]


def run_pinned(experiment: Experiment, store: Store, replace: bool = False) -> StageReport:
    """Measure every pinned policy that is not scored by the same protocols yet. Raises TbrmError like `evaluate`."""
    started = time.monotonic()
    setting = setting_of(experiment)
    entries = plan_entries(setting)
    reports = [evaluate(setting, store, target, entries, replace) for target in pinned_targets(experiment)]
    metrics: dict[str, Metric] = {}
    for report in reports:
        name = report.dataset.rpartition("/")[2]
        metrics |= {f"{name}_{key}": value for key, value in report.metrics.items() if "_accuracy" in key}
    return StageReport(
        "evaluate",
        experiment.name,
        0,
        sum(report.rows for report in reports),
        time.monotonic() - started,
        all(report.skipped for report in reports),
        metrics,
    )


def pinned_are_scored(experiment: Experiment, store: Store) -> bool:
    """Whether there is nothing to measure."""
    setting = setting_of(experiment)
    targets = pinned_targets(experiment)
    if not targets:
        return True
    entries = plan_entries(setting)
    return all(is_scored(setting, store, target, entries) for target in targets)
