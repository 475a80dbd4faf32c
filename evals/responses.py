"""Responses to a benchmark: generated once, stored like rollouts, resumable shard by shard."""

# pyright: reportUnknownParameterType=false
# (pyarrow ships no types)

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from evals.plan import Entry, Setting
from evals.targets import Target
from pipeline.engines import Engine, Request, Sampling, load_engine
from pipeline.models import load_tokenizer
from pipeline.policy import PolicyRef
from pipeline.progress import track
from pipeline.prompts import Problem, prompt_row
from pipeline.store import SCHEMAS, Manifest, Partition, Store, seed_of


class Sampler:
    """Engine and tokenizer of one policy, started when the first response is missing."""

    def __init__(self, setting: Setting, policy: PolicyRef) -> None:
        self.setting, self.policy = setting, policy
        self._engine: Engine | None = None
        self._tokenizer: Any = None

    def sample(self, entry: Entry, problems: Sequence[Problem]) -> pa.Table:
        """`protocol.samples` responses to each problem, in the order (problem, sample), as rows of `responses`."""
        if self._engine is None:
            self._tokenizer = load_tokenizer(self.policy.path)
            self._engine = load_engine(self.setting.rollouts, self.setting.policy, self.policy, self._tokenizer)
        engine, protocol = self._engine, entry.protocol
        prompts = [prompt_row(problem, protocol.template, self._tokenizer) for problem in problems]
        keys = [(prompt, sample) for prompt in prompts for sample in range(protocol.samples)]
        # The policy is not part of the seed: policies are compared on the same random numbers.
        seeds = [seed_of(self.setting.seed, entry.name, prompt["prompt_id"], sample) for prompt, sample in keys]
        requests = [Request(prompt["prompt_token_ids"], seed) for (prompt, _), seed in zip(keys, seeds, strict=True)]
        samples = engine.generate(requests, Sampling(protocol.temperature, protocol.top_p, 0, protocol.max_tokens))
        rows = [
            {
                "benchmark": entry.name,
                "problem_id": prompt["prompt_id"],
                "sample_index": number,
                **{
                    field: prompt[field] for field in ("prompt_text", "prompt_token_ids", "answer", "verifier", "extra")
                },
                "response_text": self._tokenizer.decode(sample.token_ids, skip_special_tokens=True),
                "response_token_ids": sample.token_ids,
                "response_tokens": len(sample.token_ids),
                "finish_reason": sample.finish_reason,
                "policy_id": self.policy.policy_id,
                "sampling": {
                    "temperature": protocol.temperature,
                    "top_p": protocol.top_p,
                    "max_tokens": protocol.max_tokens,
                    "seed": seed,
                    "engine": engine.name,
                    "engine_version": engine.version,
                },
            }
            for (prompt, number), seed, sample in zip(keys, seeds, samples, strict=True)
        ]
        return pa.Table.from_pylist(rows, SCHEMAS["responses"])

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def write_responses(
    store: Store, target: Target, entry: Entry, setting: Setting, sampler: Sampler
) -> tuple[Partition, Manifest]:
    """The responses of one entry, generated where they are missing. A killed run goes on at the first missing shard."""
    key = entry.key(target.policy.policy_id, setting)
    partition = target.responses(store, entry.name, key)
    if partition.is_committed() and (manifest := partition.manifest()).config_hash.startswith(key):
        return partition, manifest
    started = time.monotonic()
    samples = entry.protocol.samples
    size = max(1, setting.evaluation.responses_per_shard // samples)
    shards = [entry.problems[start : start + size] for start in range(0, len(entry.problems), size)]
    parents = {f"{target.dataset}/policy/generation={target.generation:04d}": target.policy.policy_id}
    with (
        partition.writer(f"{key}-{size}", parents) as writer,
        track(f"{entry.name}[{target.generation}]", len(entry.problems) * samples, "responses") as progress,
    ):
        for index, problems in enumerate(shards):
            if not writer.is_done(index):
                writer.write(index, sampler.sample(entry, problems))
            progress.advance(len(problems) * samples)
        stats = {
            "protocol": json.dumps(asdict(entry.protocol), sort_keys=True),
            "problems_hash": entry.problems_hash,
            "policy": target.policy.path,
            "seconds": time.monotonic() - started,
        }
        return partition, writer.commit(len(shards), stats)
