"""The rollouts stage: sample the trajectories of one generation, shard by shard, resumable."""

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Experiment, stage_hash
from pipeline.config.rollouts import RolloutsConfig
from pipeline.engines import Engine, Request, Sample, Sampling, load_engine
from pipeline.errors import TbrmError
from pipeline.models import load_tokenizer
from pipeline.policy import PolicyRef, foreign_policy, resolve_policy
from pipeline.progress import track
from pipeline.prompts import load_problems, problems_of_generation, prompt_rows
from pipeline.stage import StageReport
from pipeline.store import SCHEMAS, Manifest, PartitionWriter, Stat, Store, seed_of, trajectory_id

# Settings that change how fast or where sampling runs, not what is asked for.
_NOT_IN_HASH = {"gpu_memory_utilization", "tensor_parallel", "batch_size"}


def run_rollouts(experiment: Experiment, store: Store, generation: int, replace: bool = False) -> StageReport:
    """Write tables `prompts` and `rollouts` of `generation`, sampled from policy[generation].

    A killed run goes on at the first missing shard and ends with the same trajectories.
    Raises TbrmError when the experiment samples nothing, or policy[generation] is not published yet.
    """
    started = time.monotonic()
    config = experiment.rollouts
    if config is None:
        raise TbrmError(
            f"{experiment.name} has `rollouts: none`: it trains on logged data only, there is nothing to sample"
        )
    policy = foreign_policy(config.policy) if config.policy else resolve_policy(store, experiment, generation)
    tokenizer = load_tokenizer(policy.path)
    prompts = _write_prompts(experiment, config, store, generation, tokenizer, replace)
    partition = store.partition(experiment.name, "rollouts", generation)
    config_hash = stage_hash(
        config.model_dump(exclude=_NOT_IN_HASH),
        experiment.policy.dtype,
        experiment.seed,
        policy.policy_id,
        prompts.hash,
    )
    if not replace and partition.is_committed() and (manifest := partition.manifest()).config_hash == config_hash:
        return _report(manifest, started, skipped=True)
    parents = {
        f"{experiment.name}/policy/generation={generation:04d}": policy.policy_id,
        f"{experiment.name}/prompts/generation={generation:04d}": prompts.hash,
    }
    engine: Engine | None = None
    prompt_partition = store.partition(experiment.name, "prompts", generation)
    with (
        partition.writer(config_hash, parents, replace) as writer,
        track(f"rollouts[{generation}]", prompts.rows * config.n, "trajectories") as progress,
    ):
        for index, rows in prompt_partition.iter_shards():
            if not writer.is_done(index):
                engine = engine or load_engine(config, experiment.policy, policy, tokenizer)
                writer.write(index, _sample_shard(experiment, config, engine, policy, tokenizer, generation, rows))
            progress.advance(rows.num_rows * config.n)
        if engine is not None:
            engine.close()
        stats = _statistics(writer, len(prompts.shards)) | {"seconds": time.monotonic() - started}
        manifest = writer.commit(len(prompts.shards), stats)
    return _report(manifest, started, skipped=False)


def _write_prompts(
    experiment: Experiment, config: RolloutsConfig, store: Store, generation: int, tokenizer: Any, replace: bool
) -> Manifest:
    """The generation's draw as table `prompts`; shard k holds the prompts of rollouts shard k."""
    partition = store.partition(experiment.name, "prompts", generation)
    config_hash = stage_hash(experiment.prompts, experiment.seed, config.prompts_per_shard)
    if not replace and partition.is_committed() and (manifest := partition.manifest()).config_hash == config_hash:
        return manifest
    problems = load_problems(experiment.prompts, experiment.seed)
    drawn = problems_of_generation(problems, experiment.prompts.per_generation, generation, experiment.seed)
    rows, too_long = prompt_rows(drawn, experiment.prompts.template, tokenizer, experiment.prompts.max_prompt_tokens)
    if not rows:
        raise TbrmError(f"all {too_long} prompts of generation {generation} are longer than prompts.max_prompt_tokens")
    size = config.prompts_per_shard
    with partition.writer(config_hash, {}, replace) as writer:
        for index, start in enumerate(range(0, len(rows), size)):
            writer.write(index, pa.Table.from_pylist(rows[start : start + size], SCHEMAS["prompts"]))
        return writer.commit(-(-len(rows) // size), {"too_long": too_long})


def _sample_shard(
    experiment: Experiment,
    config: RolloutsConfig,
    engine: Engine,
    policy: PolicyRef,
    tokenizer: Any,
    generation: int,
    prompts: pa.Table,
) -> pa.Table:
    """`n` trajectories for each prompt of the shard, in the order (prompt, sample)."""
    sampling = Sampling(config.temperature, config.top_p, config.top_k, config.max_tokens)
    keys = [(prompt, sample) for prompt in prompts.to_pylist() for sample in range(config.n)]
    ids = [trajectory_id(experiment.name, generation, prompt["prompt_id"], sample) for prompt, sample in keys]
    seeds = [seed_of(experiment.seed, id_) for id_ in ids]
    requests = [Request(prompt["prompt_token_ids"], seed) for (prompt, _), seed in zip(keys, seeds, strict=True)]
    samples = engine.generate(requests, sampling)
    rows = [
        {
            "trajectory_id": id_,
            "prompt_id": prompt["prompt_id"],
            "sample_index": sample_index,
            "prompt_token_ids": prompt["prompt_token_ids"],
            "response_token_ids": sample.token_ids,
            "response_text": _text(sample, tokenizer),
            "finish_reason": sample.finish_reason,
            "behavior_logprobs": sample.logprobs,
            "policy_id": policy.policy_id,
            "generation": generation,
            "sampling": {
                "temperature": config.temperature,
                "top_p": config.top_p,
                "max_tokens": config.max_tokens,
                "seed": seed,
                "engine": engine.name,
                "engine_version": engine.version,
            },
        }
        for id_, (prompt, sample_index), seed, sample in zip(ids, keys, seeds, samples, strict=True)
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["rollouts"])


def _text(sample: Sample, tokenizer: Any) -> str:
    """The response for people and verifiers: without special tokens such as the end of sequence."""
    return tokenizer.decode(sample.token_ids, skip_special_tokens=True)


def _statistics(writer: PartitionWriter, shards: int) -> dict[str, Stat]:
    """Figures over all shards, those of an earlier interrupted run included."""
    lengths: list[np.ndarray[Any, Any]] = []
    truncated = 0
    logprob_sum = 0.0
    for index in range(shards):
        rows = writer.read(index, ["response_token_ids", "finish_reason", "behavior_logprobs"])
        lengths.append(pc.list_value_length(rows["response_token_ids"]).to_numpy())
        truncated += rows["finish_reason"].to_pylist().count("length")
        logprob_sum += pc.sum(pc.list_flatten(rows["behavior_logprobs"])).as_py() or 0.0
    tokens = np.concatenate(lengths)
    return {
        "trajectories": len(tokens),
        "response_tokens": int(tokens.sum()),
        "mean_response_tokens": float(tokens.mean()),
        "max_response_tokens": int(tokens.max()),
        "truncated_share": truncated / len(tokens),
        # E[-log π(a|s)] over the policy's own samples: an unbiased estimate of its entropy per token.
        "entropy_per_token": -logprob_sum / max(int(tokens.sum()), 1),
    }


def _report(manifest: Manifest, started: float, skipped: bool) -> StageReport:
    return StageReport(
        "rollouts",
        manifest.dataset,
        manifest.generation,
        manifest.rows,
        time.monotonic() - started,
        skipped,
        manifest.stats,
    )
