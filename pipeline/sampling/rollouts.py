"""The rollouts stage: sample the trajectories of one generation, shard by shard, resumable."""

import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Experiment, stage_hash
from pipeline.config.experiment import check_generation
from pipeline.config.policy import ServerModel, named_policy
from pipeline.config.rollouts import RolloutsConfig
from pipeline.errors import TbrmError
from pipeline.policies.load_save import (
    check_tokenizer,
    device,
    load_model,
    load_tokenizer,
    refuse_large_on_cpu,
    tokenizer_info,
)
from pipeline.policies.refs import (
    Acting,
    PolicyRef,
    ServedPolicy,
    check_undamaged,
    content_hash,
    foreign_policy,
    published_tokenizer,
    resolve_policy,
)
from pipeline.prompts.generation import write_prompts
from pipeline.run.configurations import check_alike
from pipeline.run.resumable import Stage, StageReport, Work, run_stage
from pipeline.run.shards import Advance, Make
from pipeline.sampling.endpoint import endpoint_policy
from pipeline.sampling.engines import Engine, Request, Sample, Sampling, choose_engine, context_length, load_engine
from pipeline.sampling.engines.warm_engine import socket_path
from pipeline.store import (
    SCHEMAS,
    PartitionWriter,
    Stat,
    Store,
    TokenizerInfo,
    open_store,
    seed_of,
    trajectory_id,
)

_COLUMNS = ("prompt_token_ids", "response_token_ids", "behavior_logprobs")


def measure_agreement(
    experiment: Experiment, policy: PolicyRef, writer: PartitionWriter, shards: int, sample: int
) -> dict[str, float | int]:
    """Gaps |log π_engine - log π_trainer| in nats over `sample` trajectories, taken evenly from all shards.

    `agreement_mean_gap` and `agreement_max_gap` are of single tokens; `agreement_response_gap` and
    `agreement_max_response_gap` of |Σ_h (…)| over a response: mean and largest. Raises TbrmError for a model that the
    trainer cannot score.
    """
    from pipeline.scoring.scoring import score_trajectories

    rows = _sample(writer, shards, sample).to_pydict()
    model: Any = load_model(policy.path, experiment.policy).to(device())
    scored = score_trajectories(
        model, rows["prompt_token_ids"], rows["response_token_ids"], experiment.reference.max_tokens
    )
    differences = [
        np.asarray(told, np.float64) - logprobs
        for told, (logprobs, _) in zip(rows["behavior_logprobs"], scored, strict=True)
    ]
    tokens = np.abs(np.concatenate(differences))
    responses = np.array([abs(float(difference.sum())) for difference in differences])
    return {
        "agreement_mean_gap": float(tokens.mean()),
        "agreement_max_gap": float(tokens.max()),
        "agreement_response_gap": float(responses.mean()),
        "agreement_max_response_gap": float(responses.max()),
        "agreement_trajectories": len(differences),
    }


def _sample(writer: PartitionWriter, shards: int, sample: int) -> pa.Table:
    """Rows spread evenly over every shard, those without tokens left out."""
    each = -(-sample // shards)
    parts: list[pa.Table] = []
    for index in range(shards):
        rows = writer.read(index, _COLUMNS)
        rows = rows.filter(pa.array([bool(ids) for ids in rows["response_token_ids"].to_pylist()]))
        parts.append(
            rows.take(np.unique(np.linspace(0, rows.num_rows - 1, each).astype(int))) if rows.num_rows else rows
        )
    return pa.concat_tables(parts)[:sample]


DECIDES = ("seed", "prompts", "policy.dtype", *RolloutsConfig.alike_fields("rollouts"))
"""Fields in which the generations of an experiment are alike."""


def run_rollouts(experiment: Experiment, store: Store, generation: int, replace: bool = False) -> StageReport:
    """Write tables `prompts`, `quarantine` and `rollouts` of `generation`, sampled from policy[generation].

    A killed run goes on at the first missing shard and ends with the same trajectories.
    Raises TbrmError when the experiment samples nothing, policy[generation] is not published yet, or the engine cannot
    start.
    """
    started = time.monotonic()
    check_generation(experiment, generation)
    config = experiment.rollouts
    if config is None:
        raise TbrmError(
            f"{experiment.name} has `rollouts: none`: it trains on logged data only, there is nothing to sample"
        )
    policy = behaviour_policy(store, experiment, config, generation)
    folder = _tokenizer_folder(store, experiment, policy, generation)
    context = context_length(folder) if config.max_model_len is None else config.max_model_len
    tokenizer = load_tokenizer(folder)
    made_by = tokenizer_info(tokenizer)
    _check_teacher(store, experiment, config, generation, made_by)
    # Here rather than in `run_stage`, because the prompts are written before the trajectories.
    of_one = RolloutsConfig.fields_of_one("rollouts")
    check_alike(store, experiment, "rollouts", generation, DECIDES, replace, of_one=of_one)
    prompts = write_prompts(experiment, config, store, generation, tokenizer, context, replace)
    remedy = "Run the stage with --replace, so that the prompts are tokenized again"
    check_tokenizer(prompts.tokenizer, prompts.name, made_by, policy.path, remedy)

    def work() -> Work:
        if isinstance(policy, PolicyRef):
            check_undamaged(policy)
        choice, shards = choose_engine(config, policy, config.stop), len(prompts.shards)

        def statistics(writer: PartitionWriter) -> dict[str, Stat]:
            stats = _statistics(writer, shards) | {"engine": choice.name, "engine_reason": choice.reason}
            if config.agreement.sample and isinstance(policy, PolicyRef) and not policy.adapter:
                stats |= measure_agreement(experiment, policy, writer, shards, config.agreement.sample)
            return stats

        return Work(
            rows=[shard.rows * config.n for shard in prompts.shards],
            start=partial(_sampler, experiment, config, store.root_for_workers, generation, policy),
            statistics=statistics,
            tokenizer=made_by,
            note=f"{choice.name}: {choice.reason}",
        )

    stage = Stage(
        name="rollouts",
        partition=store.partition(experiment.name, "rollouts", generation),
        key=stage_hash(config.deciding(), experiment.policy.dtype, experiment.seed, policy.policy_id, prompts.hash),
        parents={
            f"{experiment.name}/policy/generation={generation:04d}": policy.policy_id,
            f"{experiment.name}/prompts/generation={generation:04d}": prompts.hash,
        },
        work=work,
        unit="trajectories",
    )
    return run_stage(store, stage, experiment, replace, started)


def _check_teacher(
    store: Store, experiment: Experiment, config: RolloutsConfig, generation: int, teacher: TokenizerInfo
) -> None:
    """Raise StoreError for a teacher whose ids would mean other words to the policy that is trained on them."""
    if config.policy is None or config.endpoint:
        return
    own = published_tokenizer(store, experiment.name, generation)
    remedy = (
        "A trajectory is stored as token ids, so a teacher has to share the tokenizer: choose one of the same family, "
        "or log its responses as text and `tbrm import` them with the tokenizer of the policy"
    )
    check_tokenizer(teacher, f"rollouts.policy {config.policy}", own, f"policy[{generation}]", remedy)


def behaviour_policy(store: Store, experiment: Experiment, config: RolloutsConfig, generation: int) -> Acting:
    """What samples generation `generation`: policy[g], or the policy that `rollouts.policy` and `.adapter` name."""
    named = named_policy(config.policy) if config.policy else None
    if isinstance(named, ServerModel):
        return endpoint_policy(named, [named.address])
    policy = foreign_policy(named) if named else resolve_policy(store, experiment, generation)
    if not config.adapter:
        return policy
    name = f"{policy.policy_id}+{content_hash(Path(config.adapter))}"
    return PolicyRef(name, policy.path, policy.generation, config.adapter)


def _tokenizer_folder(store: Store, experiment: Experiment, policy: Acting, generation: int) -> str:
    """Where tokenizer and context come from: the behaviour policy, or policy[g] where that is a server."""
    served = isinstance(policy, ServedPolicy)
    return resolve_policy(store, experiment, generation).path if served else policy.path


@contextmanager
def _sampler(*about: Any) -> Generator[Make]:
    with closing(Sampler(*about)) as sampler:
        yield sampler.make


class Sampler:
    """The engine at work on shards, on whichever machine."""

    def __init__(
        self, experiment: Experiment, config: RolloutsConfig, root: str, generation: int, policy: Acting
    ) -> None:
        store = open_store(root)
        self.experiment, self.config, self.generation = experiment, config, generation
        # Looked up again, since on another machine the policy may lie in another folder.
        served = isinstance(policy, ServedPolicy)
        self.policy = policy if served else behaviour_policy(store, experiment, config, generation)
        if not served:
            refuse_large_on_cpu(self.policy.path, experiment.large_model_on_cpu)
        self.prompts = store.partition(experiment.name, "prompts", generation)
        self.tokenizer = load_tokenizer(_tokenizer_folder(store, experiment, policy, generation))
        longest = experiment.prompts.max_prompt_tokens + config.max_tokens
        here = config.warm and not experiment.on_cluster("rollouts")
        service = socket_path(root, experiment.name) if here else None
        self.engine: Engine = load_engine(
            config, experiment.policy, self.policy, self.tokenizer, longest, service, config.stop
        )

    def make(self, index: int, _: Advance) -> pa.Table:
        """`n` trajectories for each prompt of the shard, in the order (prompt, sample)."""
        config, engine = self.config, self.engine
        sampling = Sampling(config.temperature, config.top_p, config.top_k, config.max_tokens, config.stop)
        prompts = self.prompts.read_shard(index).to_pylist()
        keys = [(prompt, sample) for prompt in prompts for sample in range(config.n)]
        ids = [trajectory_id(self.experiment.name, self.generation, p["prompt_id"], sample) for p, sample in keys]
        seeds = [seed_of(self.experiment.seed, id_) for id_ in ids]
        requests = [Request(prompt["prompt_token_ids"], seed) for (prompt, _), seed in zip(keys, seeds, strict=True)]
        samples = engine.generate(requests, sampling)
        rows = [
            {
                "trajectory_id": id_,
                "prompt_id": prompt["prompt_id"],
                "sample_index": sample_index,
                "prompt_token_ids": prompt["prompt_token_ids"],
                "response_token_ids": sample.token_ids,
                "response_text": _text(sample, self.tokenizer),
                "finish_reason": sample.finish_reason,
                "behavior_logprobs": sample.logprobs,
                "policy_id": self.policy.policy_id,
                "generation": self.generation,
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

    def close(self) -> None:
        self.engine.close()


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
