"""Tables `prompts` and `quarantine` of a generation: its draw of problems, and those too long to be answered."""

from typing import Any

import pyarrow as pa

from pipeline.config import Experiment, stage_hash
from pipeline.config.rollouts import RolloutsConfig
from pipeline.errors import TbrmError
from pipeline.policies.tokenizer import tokenizer_info
from pipeline.prompts import load_problems, problems_of_generation, prompt_rows
from pipeline.run.resumable import Stage, Work, whole, write_partition
from pipeline.store import SCHEMAS, Manifest, Store

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
        write_partition(Stage("quarantine", aside, key, {}, lambda: whole([quarantined])), experiment, replace)
        size = config.prompts_per_shard
        shards = [
            pa.Table.from_pylist(rows[start : start + size], SCHEMAS["prompts"]) for start in range(0, len(rows), size)
        ]
        return whole(shards, {"too_long": len(bad)}, tokenizer_info(tokenizer))

    partition = store.partition(experiment.name, "prompts", generation)
    return write_partition(Stage("prompts", partition, key, {}, work), experiment, replace)[0]


def _reason(tokens: int, limit: int, context: int | None) -> str:
    if tokens > limit:
        return f"prompt of {tokens} tokens is longer than prompts.max_prompt_tokens {limit}"
    return f"prompt of {tokens} tokens leaves no room for a response in the model's context of {context}"
