"""Checks of a stage's result: each reads what the store holds and says whether training on it makes sense.

They run in the Dagster step that made the asset, so that a check costs no process of its own. A failed check in
BLOCKING means that the data are wrong: later stages do not run, and the policy is not published. Any other failed check
is a warning. Nothing here imports Dagster.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute

from evals.statistics.compare import against_best
from pipeline.config import Experiment
from pipeline.errors import StoreError, TbrmError
from pipeline.policies.refs import read_policy_json, resolve_published, trained_policy_folder
from pipeline.prompts.contamination import benchmark_folder, find_pairs, load_benchmarks
from pipeline.prompts.generation import table_problems
from pipeline.store import Store, check_aligned
from trainer.diagnostics.numbers import read_diagnostics

pc: Any = pyarrow.compute  # its functions are made at import time, unseen by type checkers
MAX_TRUNCATED_SHARE = 0.5
MIN_DISTINCT_SHARE = 0.1
MIN_EFFECTIVE_SHARE = 0.02
MIN_SAMPLE = 10  # fewer trajectories say nothing about effective samples
MAX_NAMED = 50
MAX_MEAN_LOGPROB_GAP = 0.05  # nats a token; bf16 against fp32 was measured at 0.033


@dataclass(frozen=True)
class Verdict:
    """What a check found. `passed` is None where it has nothing to look at; `description` then says why."""

    passed: bool | None
    description: str
    numbers: Mapping[str, float | int | str] = field(default_factory=dict[str, float | int | str])


Check = Callable[[Store, Experiment, int], Verdict]
BLOCKING = frozenset({"aligned_with_rollouts", "made_progress"})
"""Names of the checks without which the loop stops."""


def no_collapse(store: Store, experiment: Experiment, generation: int) -> Verdict:
    """Responses of the first shard differ from each other and mostly end on their own (length, entropy collapse)."""
    rows = store.partition(experiment.name, "rollouts", generation).read_shard(
        0, ["response_text", "finish_reason", "prompt_id"]
    )
    truncated = pc.mean(pc.equal(rows["finish_reason"], "length")).as_py() or 0.0
    prompts, texts = (pc.count_distinct(rows[c]).as_py() for c in ("prompt_id", "response_text"))
    distinct = texts / max(1, prompts)
    passed = truncated <= MAX_TRUNCATED_SHARE and distinct >= MIN_DISTINCT_SHARE
    return Verdict(
        passed,
        f"{truncated:.0%} of {rows.num_rows} responses are cut at the limit (at most {MAX_TRUNCATED_SHARE:.0%}), "
        f"{distinct:.2f} different responses for each prompt (at least {MIN_DISTINCT_SHARE})",
        {"truncated_share": truncated, "distinct_responses_per_prompt": distinct},
    )


def aligned_with(table: str) -> Check:
    """The check that every shard of `table` labels the rollouts of the same shard, row by row."""

    def aligned_with_rollouts(store: Store, experiment: Experiment, generation: int) -> Verdict:
        """Row k of every shard labels row k of the rollout shard of the same number (same trajectory_id)."""
        left, right = (store.partition(experiment.name, name, generation) for name in ("rollouts", table))
        counts = [[shard.rows for shard in partition.manifest().shards] for partition in (left, right)]
        if counts[0] != counts[1]:
            return Verdict(False, f"rows of the shards differ: rollouts {counts[0]}, {table} {counts[1]}")
        try:
            for index, rows in left.iter_shards(["trajectory_id"]):
                check_aligned(rows, right.read_shard(index, ["trajectory_id"]), f"{right.name} shard {index}")
        except StoreError as error:
            return Verdict(False, str(error))
        rows, shards = sum(counts[0]), len(counts[0])
        return Verdict(True, f"{rows} rows in {shards} shards agree", {"rows": rows, "shards": shards})

    return aligned_with_rollouts


def verdict_rates(store: Store, experiment: Experiment, generation: int) -> Verdict:
    """Nearly every response got a verdict (not timeout, memory, error), and rewards are not all the same."""
    counts: dict[str, int] = {}
    rewards: list[np.ndarray] = []
    for _, rows in store.partition(experiment.name, "rewards", generation).iter_shards(["status", "reward"]):
        for item in pc.value_counts(rows["status"]).to_pylist():
            counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
        rewards.append(rows["reward"].to_numpy())
    total = max(1, sum(counts.values()))
    undecided = sum(counts.get(s, 0) for s in ("timeout", "memory", "error")) / total
    spread = float(np.concatenate(rewards).std()) if rewards else 0.0
    limit = experiment.rewards.max_undecided_share
    shares = {f"share_{status}": count / total for status, count in sorted(counts.items())}
    return Verdict(
        undecided <= limit and spread > 0,
        f"{undecided:.2%} without a verdict (at most {limit:.2%}); rewards spread by {spread:.3f} (above 0)",
        {**shares, "share_undecided": undecided, "reward_std": spread},
    )


def logprob_agreement(store: Store, experiment: Experiment, generation: int) -> Verdict:
    """In generation 0 the sampler is the reference: both engines must give each token (nearly) the same log-prob."""
    sampling = experiment.rollouts
    comparable = (
        sampling
        and sampling.policy is None
        and experiment.reference.policy == "base"
        and sampling.temperature == experiment.training.temperature == 1.0
    )
    if generation > 0 or not comparable:
        return Verdict(None, "the sampler is not the reference policy at temperature 1")
    sampled = store.partition(experiment.name, "rollouts", 0).read_shard(0, ["behavior_logprobs"])["behavior_logprobs"]
    scored = store.partition(experiment.name, "ref_logprobs", 0).read_shard(0, ["ref_token_logprobs"])[
        "ref_token_logprobs"
    ]
    if sampled.null_count:
        return Verdict(None, "the sampler stored no log-probs")
    gaps = np.abs(pc.list_flatten(sampled).to_numpy() - pc.list_flatten(scored).to_numpy())
    mean, largest = (float(gaps.mean()), float(gaps.max())) if gaps.size else (0.0, 0.0)
    return Verdict(
        mean <= MAX_MEAN_LOGPROB_GAP,
        f"mean gap {mean:.2g} nats a token (at most {MAX_MEAN_LOGPROB_GAP}), largest {largest:.2g}",
        {"mean_gap": mean, "largest_gap": largest},
    )


def engine_agreement(store: Store, experiment: Experiment, generation: int) -> Verdict:
    """Sampling engine and trainer give a token (nearly) the same log-prob, in every generation."""
    stats = store.partition(experiment.name, "rollouts", generation).manifest().stats
    if experiment.rollouts is None or "agreement_mean_gap" not in stats:
        return Verdict(None, "nothing was compared (a server, an adapter, or agreement.sample 0)")
    bounds = experiment.rollouts.agreement
    limits = {
        "agreement_mean_gap": bounds.max_mean_gap,
        "agreement_max_gap": bounds.max_token_gap,
        "agreement_response_gap": bounds.max_response_gap,
    }
    found = {name: float(stats[name]) for name in limits}
    mean, largest, response = (f"{found[name]:.2g} (at most {limit:g})" for name, limit in limits.items())
    return Verdict(
        all(found[name] <= limit for name, limit in limits.items()),
        f"gaps in nats: mean of a token {mean}, largest {largest}, mean of a response's sum {response}",
        {**found, "agreement_max_response_gap": float(stats["agreement_max_response_gap"])},
    )


def effective_samples(store: Store, experiment: Experiment, generation: int) -> Verdict:
    """Every source of the mix still says something about π_θ: its importance weights do not rest on a few responses."""
    found = read_diagnostics(store, experiment.name, generation) or []
    known = [(source, source.coverage) for source in found if source.coverage]
    if not known:
        return Verdict(None, "no source of the mix has behaviour log-probs")
    shares = {f"effective_share {s.source} lag {s.lag}": c.effective_share for s, c in known}
    poor = [
        f"{s.source} lag {s.lag}: {c.effective:.1f} of {c.trajectories}"
        for s, c in known
        if c.trajectories >= MIN_SAMPLE and c.effective < max(2.0, MIN_EFFECTIVE_SHARE * c.trajectories)
    ]
    if poor:
        return Verdict(
            False,
            f"almost no effective samples ({'; '.join(poor)}): the policy has moved away from these data. Lower "
            "`replay.window` or the source's weight, or expect less from each trajectory",
            shares,
        )
    return Verdict(True, f"at least {min(shares.values()):.1%} of each source's samples are effective", shares)


def no_contamination(tables: Callable[[Experiment, int], list[tuple[str, int | None]]]) -> Check:
    """The check that prompts of the data sets `tables` names are not benchmark problems."""

    def no_contamination(store: Store, experiment: Experiment, generation: int) -> Verdict:
        """No training prompt is a benchmark problem, in equal words or by half of its 13-grams."""
        sources = tables(experiment, generation)
        evaluation = experiment.evaluation and experiment.evaluation.source
        folder = benchmark_folder(experiment.prompts, evaluation)
        if folder is None or not sources:
            why = (
                "nothing new to compare"
                if folder
                else "neither `evaluation.source` nor `prompts.exclude_overlap` is set"
            )
            return Verdict(None, why)
        partitions = (
            store.partition(dataset, "prompts", number)
            for dataset, one in sources
            for number in (store.generations(dataset, "prompts") if one is None else [one])
        )
        try:
            benchmarks = load_benchmarks(folder)
        except TbrmError as error:
            return Verdict(False, f"nothing could be compared: {error}")
        pairs = list(find_pairs((p for partition in partitions for p in table_problems(partition)), benchmarks))
        counts = {s.benchmark: s.exact + s.near for s in benchmarks.summary(pairs)}
        named = [f"{p.prompt_id} is {p.benchmark} {p.problem_id} ({p.kind} {p.overlap:.2f})" for p in pairs]
        hit = ", ".join(f"{n} of {benchmarks.sizes[b]} {b}" for b, n in counts.items() if n)
        return Verdict(
            not pairs,
            f"training prompts repeat {hit}; `prompts.exclude_overlap` leaves them out" if pairs else "no overlap",
            {**counts, "pairs": "; ".join(named[:MAX_NAMED])} if pairs else counts,
        )

    return no_contamination


def own_prompts(experiment: Experiment, generation: int) -> list[tuple[str, int | None]]:
    """The prompts of this generation."""
    return [(experiment.name, generation)]


def logged_prompts(experiment: Experiment, generation: int) -> list[tuple[str, int | None]]:
    """The logged data sets of the mix, in generation 0 alone: they are the same in every later one."""
    return (
        [(f"logged/{source.name}", source.generation) for source in experiment.replay.logged] if not generation else []
    )


def made_progress(store: Store, experiment: Experiment, generation: int) -> Verdict:
    """Training changed the weights: the trained policy is not the policy it started from."""
    trained = str(read_policy_json(trained_policy_folder(store, experiment.name, generation))["policy_id"])
    before = resolve_published(store, experiment.name, generation).policy_id
    return Verdict(trained != before, f"policy {before} became {trained}", {"before": before, "after": trained})


def no_regression(store: Store, experiment: Experiment, generation: int) -> Verdict:
    """No benchmark's accuracy is below that of the best earlier policy by more than chance explains."""
    found = against_best(store, experiment.name, generation + 1)
    if not found:
        return Verdict(None, "no earlier scores by the same protocol to compare with")
    worse = [one for one in found if one.is_worse]
    numbers = {f"{one.benchmark}_difference": one.difference.value for one in found}
    numbers |= {f"{one.benchmark}_difference_high": one.difference.high for one in found}
    listed = "; ".join(map(str, worse or found))
    return Verdict(not worse, f"{'worse' if worse else 'not worse'} than the best before: {listed}", numbers)
