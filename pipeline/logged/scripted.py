"""A logged data set of a scripted behaviour policy: what experiments on an embedded policy start from."""

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pyarrow as pa

from pipeline.config import Experiment, stage_hash
from pipeline.errors import StoreError, TbrmError
from pipeline.policies.load_save import tokenizer_info
from pipeline.prompts import Problem, load_problems, prompt_row
from pipeline.store import SCHEMAS, Manifest, Store, code_version, seed_of, trajectory_id

_PER_SHARD = 8_192
Mistake = Callable[[Problem, random.Random], str]


def write_behaviour_log(
    experiment: Experiment, logged: str, trajectories: int, behaviour_accuracy: float, store: Store, tokenizer: Any
) -> Manifest:
    """Write `logged/<logged>` (tables prompts and rollouts) once; later calls only read its manifest.

    A response is right with probability `behaviour_accuracy`, else it is the mistake of the prompt set's kind. Held-out
    problems do not occur in it. Raises StoreError when the data set exists with other settings.
    """
    dataset = f"logged/{logged}"
    partition = store.partition(dataset, "rollouts")
    written = {"logged": logged, "trajectories": trajectories, "behaviour_accuracy": behaviour_accuracy}
    prompt_set = experiment.prompts
    arithmetic = prompt_set.source == "arithmetic"
    asked = prompt_set.arithmetic if arithmetic else prompt_set.model_dump(mode="json", exclude={"per_generation"})
    config_hash = stage_hash(written, asked, prompt_set.template, experiment.seed)
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
    drawn = rng.choices(problems, k=trajectories)
    behaviour = f"scripted-{prompt_set.source}"
    mistake: Mistake = (lambda problem, _: wrong_sum(problem.text)) if arithmetic else _answers_of_others(problems)
    prompts = store.partition(dataset, "prompts")
    shards = [drawn[i : i + _PER_SHARD] for i in range(0, len(drawn), _PER_SHARD)]

    @cache
    def encode(text: str) -> list[int]:
        return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]

    with (
        prompts.writer(config_hash, {}, replace=True) as prompt_writer,
        partition.writer(config_hash, {}) as rollout_writer,
    ):
        first = 0
        for index, shard in enumerate(shards):
            unique = {problem.id: problem for problem in shard}
            rows = {name: prompt_row(problem, prompt_set.template, tokenizer) for name, problem in unique.items()}
            prompt_writer.write(index, pa.Table.from_pylist(list(rows.values()), SCHEMAS["prompts"]))
            rollouts = list[dict[str, Any]]()
            for problem in shard:
                right = rng.random() < behaviour_accuracy
                text = problem.answer if right else mistake(problem, rng)
                row, number = rows[problem.id], first + len(rollouts)
                rollouts.append(_trajectory(dataset, number, row, text, encode(text), behaviour))
            rollout_writer.write(index, pa.Table.from_pylist(rollouts, SCHEMAS["rollouts"]))
            first += len(shard)
        made_by = tokenizer_info(tokenizer)
        prompt_writer.commit(len(shards), tokenizer=made_by)
        tokens = sum(len(encode(problem.answer)) for problem in drawn)
        return rollout_writer.commit(len(shards), {"behaviour_policy": behaviour, "tokens": tokens}, made_by)


def wrong_sum(question: str) -> str:
    """The sum with the carry wrong: without the ten carried over from the units, or with one where none is due."""
    a, b = (int(number) for number in question.removesuffix("=").split("+"))
    return str(a + b - 10 if a % 10 + b % 10 >= 10 else a + b + 10)


def _answers_of_others(problems: Sequence[Problem]) -> Mistake:
    """A mistake is the answer to another problem of the same source. Answers that more problems have are drawn more
    often."""
    answers: dict[str, list[str]] = {}
    for problem in problems:
        answers.setdefault(problem.source, []).append(problem.answer)
    for source, found in answers.items():
        if len(set(found)) == 1:
            raise TbrmError(f"policy.warm_start.trajectories: all problems of {source} have one answer, {found[0]!r}")

    def mistake(problem: Problem, rng: random.Random) -> str:
        while (answer := rng.choice(answers[problem.source])) == problem.answer:
            pass
        return answer

    return mistake


def _trajectory(
    dataset: str, index: int, prompt: dict[str, Any], text: str, token_ids: list[int], behaviour: str
) -> dict[str, Any]:
    return {
        "trajectory_id": trajectory_id(dataset, 0, prompt["prompt_id"], index),
        "prompt_id": prompt["prompt_id"],
        "sample_index": index,
        "prompt_token_ids": prompt["prompt_token_ids"],
        "response_token_ids": token_ids,
        "response_mask": None,
        "response_text": text,
        "finish_reason": "stop",
        "behavior_logprobs": None,
        "policy_id": behaviour,
        "generation": 0,
        "sampling": {
            "temperature": 1.0,
            "top_p": 1.0,
            "max_tokens": 0,
            "seed": 0,
            "engine": behaviour,
            "engine_version": code_version(),
        },
    }
