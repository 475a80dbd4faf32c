"""A logged data set of the scripted arithmetic behaviour policy: what the embedded experiment starts from."""

import random
from typing import Any

import pyarrow as pa

from pipeline.config import Experiment, stage_hash
from pipeline.config.policy import WarmStart
from pipeline.errors import StoreError
from pipeline.prompts import load_problems, prompt_row
from pipeline.prompts.arithmetic import behaviour_answer
from pipeline.store import SCHEMAS, Manifest, Store, code_version, seed_of, trajectory_id

BEHAVIOUR = "scripted-arithmetic"
_PER_SHARD = 8_192


def write_behaviour_log(experiment: Experiment, warm_start: WarmStart, store: Store, tokenizer: Any) -> Manifest:
    """Write `logged/<name>` (tables prompts and rollouts) once; later calls only read its manifest.

    Held-out problems do not occur in it. Raises StoreError when the data set exists with other settings.
    """
    dataset = f"logged/{warm_start.logged}"
    partition = store.partition(dataset, "rollouts")
    written = warm_start.model_dump(include={"logged", "trajectories", "behaviour_accuracy"})
    config_hash = stage_hash(written, experiment.prompts.arithmetic, experiment.prompts.template, experiment.seed)
    if partition.is_committed():
        manifest = partition.manifest()
        if manifest.config_hash != config_hash:
            raise StoreError(
                f"{dataset} was written with another seed, prompt set or accuracy, so it may hold problems that are "
                "held out here: give `policy.warm_start.logged` another name"
            )
        return manifest
    problems = load_problems(experiment.prompts, experiment.seed)
    rng = random.Random(seed_of(experiment.seed, dataset))
    drawn = rng.choices(problems, k=warm_start.trajectories)
    prompts = store.partition(dataset, "prompts")
    shards = [drawn[i : i + _PER_SHARD] for i in range(0, len(drawn), _PER_SHARD)]
    with (
        prompts.writer(config_hash, {}, replace=True) as prompt_writer,
        partition.writer(config_hash, {}) as rollout_writer,
    ):
        first = 0
        for index, shard in enumerate(shards):
            rows = [prompt_row(problem, experiment.prompts.template, tokenizer) for problem in shard]
            unique = {row["prompt_id"]: row for row in rows}
            prompt_writer.write(index, pa.Table.from_pylist(list(unique.values()), SCHEMAS["prompts"]))
            rollouts = [_trajectory(dataset, first + i, row, warm_start, tokenizer, rng) for i, row in enumerate(rows)]
            rollout_writer.write(index, pa.Table.from_pylist(rollouts, SCHEMAS["rollouts"]))
            first += len(shard)
        prompt_writer.commit(len(shards))
        return rollout_writer.commit(len(shards), {"behaviour_policy": BEHAVIOUR, "tokens": _tokens(drawn, tokenizer)})


def _tokens(drawn: list[Any], tokenizer: Any) -> int:
    return sum(len(tokenizer.encode(p.answer, add_special_tokens=False)) + 1 for p in drawn)


def _trajectory(
    dataset: str, index: int, prompt: dict[str, Any], warm_start: WarmStart, tokenizer: Any, rng: random.Random
) -> dict[str, Any]:
    a, b = (int(number) for number in prompt["prompt_text"].removesuffix("=").split("+"))
    text = behaviour_answer(a, b, warm_start.behaviour_accuracy, rng)
    return {
        "trajectory_id": trajectory_id(dataset, 0, prompt["prompt_id"], index),
        "prompt_id": prompt["prompt_id"],
        "sample_index": index,
        "prompt_token_ids": prompt["prompt_token_ids"],
        "response_token_ids": [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id],
        "response_mask": None,
        "response_text": text,
        "finish_reason": "stop",
        "behavior_logprobs": None,
        "policy_id": BEHAVIOUR,
        "generation": 0,
        "sampling": {
            "temperature": 1.0,
            "top_p": 1.0,
            "max_tokens": 0,
            "seed": 0,
            "engine": BEHAVIOUR,
            "engine_version": code_version(),
        },
    }
