"""The prompts of a generation: its draw from the problems, and the tables `prompts` and `quarantine`.

Prompts that are too long to be answered go to `quarantine`.
"""

import random
from typing import Any

import pyarrow as pa

from pipeline.config import Experiment, stage_hash
from pipeline.config.rollouts import RolloutsConfig
from pipeline.errors import TbrmError
from pipeline.policies.load_save import tokenizer_info
from pipeline.prompts.problem import Problem
from pipeline.prompts.sources import load_problems
from pipeline.prompts.templates import prompt_rows
from pipeline.run.resumable import Stage, Work, whole, write_partition
from pipeline.store import SCHEMAS, Manifest, Store, seed_of

_VALUE_CHARACTERS = 200


def write_prompts(
    experiment: Experiment,
    config: RolloutsConfig,
    store: Store,
    generation: int,
    tokenizer: Any,
    context: int | None,
    replace: bool = False,
) -> Manifest:
    """The generation's draw as table `prompts`; shard k holds the prompts of rollouts shard k.

    A prompt longer than `prompts.max_prompt_tokens`, or one that leaves no room for a response in a `context` of so
    many tokens (None: not known), goes to table `quarantine` with its reason. Raises TbrmError when none is left.
    """
    limit = experiment.prompts.max_prompt_tokens
    fits = min(limit, context - 1) if context else limit
    key = stage_hash(experiment.prompts, experiment.seed, config.prompts_per_shard, fits)

    def work() -> Work:
        problems = load_problems(experiment.prompts, experiment.seed)
        drawn = problems_of_generation(problems, experiment.prompts.per_generation, generation, experiment.seed)
        rows, too_long = prompt_rows(drawn, experiment.prompts.template, tokenizer, fits)
        if not rows:
            raise TbrmError(
                f"all {len(too_long)} prompts of generation {generation} are longer than {fits} tokens "
                f"(prompts.max_prompt_tokens {limit}, context of the model {context or 'not known'})"
            )
        bad = [
            {
                "file": experiment.prompts.path or experiment.prompts.source,
                "row": position,
                "field": "prompt_token_ids",
                "reason": _reason(len(row["prompt_token_ids"]), limit, context),
                "value": f"{row['prompt_id']}: {row['prompt_text'][:_VALUE_CHARACTERS]}",
            }
            for position, row in too_long
        ]
        quarantined = pa.Table.from_pylist(bad, SCHEMAS["quarantine"])
        aside = store.partition(experiment.name, "quarantine", generation)
        write_partition(store, Stage("quarantine", aside, key, {}, lambda: whole([quarantined])), experiment, replace)
        size = config.prompts_per_shard
        shards = [
            pa.Table.from_pylist(rows[start : start + size], SCHEMAS["prompts"]) for start in range(0, len(rows), size)
        ]
        return whole(shards, {"too_long": len(bad)}, tokenizer_info(tokenizer))

    partition = store.partition(experiment.name, "prompts", generation)
    return write_partition(store, Stage("prompts", partition, key, {}, work), experiment, replace)[0]


def _reason(tokens: int, limit: int, context: int | None) -> str:
    if tokens > limit:
        return f"prompt of {tokens} tokens is longer than prompts.max_prompt_tokens {limit}"
    return f"prompt of {tokens} tokens leaves no room for a response in the model's context of {context}"


def problems_of_generation(problems: list[Problem], per_generation: int, generation: int, seed: int) -> list[Problem]:
    """The generation's draw: without replacement until the set is used up, then reshuffled.

    It depends on the seed and the generation alone, so generations can be made in any order and again. No problem
    comes twice in one generation, not even where a reshuffle falls into it: trajectory ids are made from prompt ids.
    Raises TbrmError when the set is smaller than one draw.
    """
    if per_generation > len(problems):
        raise TbrmError(
            f"prompts.per_generation is {per_generation}, but the set has {len(problems)} problems; "
            "for more trajectories of each raise `rollouts.n`"
        )
    epoch, offset = divmod(generation * per_generation, len(problems))
    order = _order(len(problems), per_generation, epoch, seed)
    drawn = order[offset : offset + per_generation]
    if len(drawn) < per_generation:
        drawn += _order(len(problems), per_generation, epoch + 1, seed)[: per_generation - len(drawn)]
    return [problems[i] for i in drawn]


def _order(size: int, per_generation: int, epoch: int, seed: int) -> list[int]:
    """Order in which an epoch, one pass over all problems, draws them.

    A generation may begin with the last problems of an epoch and end with the first of the next one. Those first ones
    are chosen among the problems that the generation does not have yet.
    """
    order = _shuffled(size, 0, seed)
    for number in range(1, epoch + 1):
        shuffled = _shuffled(size, number, seed)
        begun = number * size % per_generation
        before = set(order[size - begun :])
        head = [i for i in shuffled if i not in before][: per_generation - begun] if begun else []
        first = set(head)
        order = head + [i for i in shuffled if i not in first]
    return order


def _shuffled(size: int, epoch: int, seed: int) -> list[int]:
    order = list(range(size))
    random.Random(seed_of(seed, "prompt order", epoch)).shuffle(order)
    return order
