"""Responses to a benchmark: generated once, stored like rollouts, resumable shard by shard."""

# pyright: reportUnknownParameterType=false
# (pyarrow ships no types)

import json
import time
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from evals.run.answers import Answerer, Question, answerer_of
from evals.run.plan import Entry, Setting
from evals.run.targets import Target
from pipeline.policies.refs import Acting
from pipeline.prompts import Problem
from pipeline.run.resumable import Stage, Work, each, write_partition
from pipeline.store import SCHEMAS, Manifest, Partition, Stat, Store, seed_of


class Sampler:
    """What answers for one policy, started when the first response is missing."""

    def __init__(self, setting: Setting, policy: Acting, answerer: Answerer | None = None) -> None:
        self.setting, self.policy = setting, policy
        self._answerer = answerer

    def sample(self, entry: Entry, problems: Sequence[Problem]) -> pa.Table:
        """`protocol.samples` responses to each problem, in the order (problem, sample), as rows of `responses`."""
        answerer = self._answerer = self._answerer or answerer_of(self.setting, self.policy)
        protocol = entry.protocol
        # The policy is not part of the seed: policies are compared on the same random numbers.
        questions = [
            Question(problem, number, seed_of(self.setting.seed, entry.name, problem.id, number))
            for problem in problems
            for number in range(protocol.samples)
        ]
        rows = [
            {
                "benchmark": entry.name,
                "problem_id": question.problem.id,
                "sample_index": question.sample_index,
                "prompt_text": answer.prompt_text,
                "prompt_token_ids": answer.prompt_token_ids,
                "answer": question.problem.answer,
                "verifier": question.problem.verifier or "",
                "extra": json.dumps(question.problem.extra, sort_keys=True),
                "response_text": answer.text,
                "response_token_ids": answer.token_ids,
                "response_tokens": answer.tokens,
                "finish_reason": answer.finish_reason,
                "policy_id": self.policy.policy_id,
                "sampling": {
                    "temperature": protocol.temperature,
                    "top_p": protocol.top_p,
                    "max_tokens": protocol.max_tokens,
                    "seed": question.seed,
                    "engine": answerer.name,
                    "engine_version": answerer.version,
                },
            }
            for question, answer in zip(questions, answerer.answer(questions, protocol), strict=True)
        ]
        return pa.Table.from_pylist(rows, SCHEMAS["responses"])

    def close(self) -> None:
        if self._answerer is not None:
            self._answerer.close()


def write_responses(
    store: Store, target: Target, entry: Entry, setting: Setting, sampler: Sampler
) -> tuple[Partition, Manifest]:
    """The responses of one entry, generated where they are missing. A killed run goes on at the first missing shard."""
    key = entry.key(target.policy.policy_id, setting)
    partition = target.responses(store, entry.name, key)
    started = time.monotonic()
    samples = entry.protocol.samples
    size = max(1, setting.evaluation.responses_per_shard // samples)
    shards = [entry.problems[start : start + size] for start in range(0, len(entry.problems), size)]
    stats: dict[str, Stat] = {
        "protocol": json.dumps(asdict(entry.protocol), sort_keys=True),
        "problems_hash": entry.problems_hash,
        "policy": target.policy.path,
    }
    stage = Stage(
        name=entry.name,
        partition=partition,
        key=key,
        cut=str(size),
        parents={f"{target.dataset}/policy/generation={target.generation:04d}": target.policy.policy_id},
        work=lambda: Work(
            rows=[len(problems) * samples for problems in shards],
            start=each(lambda index: sampler.sample(entry, shards[index])),
            statistics=lambda _: stats,
        ),
        unit="responses",
    )
    return partition, write_partition(store, stage, None, started=started)[0]


def engines_of(responses: Partition) -> str:
    """`name version` of the engines that answered, joined by commas."""
    found: set[tuple[str, str]] = set()
    for _, rows in responses.iter_shards(["sampling"]):
        found |= {(row["engine"], row["engine_version"]) for row in rows["sampling"].to_pylist() if row}
    return ", ".join(f"{name} {version}" for name, version in sorted(found))
