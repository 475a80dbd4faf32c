"""The prompts of a generation: its draw from the problems, each shown through a template, and the table `prompts`.

Problems come from files, `datasets`, reasoning-gym, or generated additions of two numbers. A template is exact to the
byte (paper, App. G). Prompts that are too long to be answered go to the table `quarantine`.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import Experiment, stage_hash
from pipeline.config.prompts import ArithmeticConfig, PromptsConfig
from pipeline.config.rollouts import RolloutsConfig
from pipeline.errors import TbrmError, needing
from pipeline.policies.load_save import tokenizer_info
from pipeline.prompts.contamination import without_overlap
from pipeline.prompts.problems import Problem, file_problems, problems_of_rows
from pipeline.run.resumable import Stage, Work, whole, write_partition
from pipeline.store import SCHEMAS, Manifest, Partition, Store, seed_of, text_hash


def load_problems(config: PromptsConfig, seed: int) -> list[Problem]:
    """Every training problem of the set, in the source's order, without those that `exclude_overlap` leaves out.

    Raises TbrmError naming file, row and field.
    """
    problems = list(_all_problems(config, seed))
    if not problems:
        raise TbrmError(f"{config.path} holds no problems")
    if config.path is not None:
        _refuse_repeated_ids(problems, config.path)
    if config.exclude_overlap is None:
        return problems
    kept = list(without_overlap(problems, config.exclude_overlap))
    if not kept:
        raise TbrmError(f"`prompts.exclude_overlap` leaves none of {len(problems)} problems: all are in the benchmarks")
    return kept


def heldout_problems(experiment: Experiment) -> list[Problem]:
    """Problems kept apart from training for evaluation. Raises TbrmError for a source that keeps none."""
    if experiment.prompts.source != "arithmetic":
        raise TbrmError(
            f"prompts.source '{experiment.prompts.source}' keeps no held-out problems; "
            "name benchmarks in `evaluation.benchmarks` instead of 'heldout'"
        )
    return arithmetic_problems(experiment.prompts.arithmetic, experiment.seed)[1]


def _all_problems(config: PromptsConfig, seed: int) -> Iterator[Problem]:
    if config.source == "arithmetic":
        yield from arithmetic_problems(config.arithmetic, seed)[0]
    elif config.source == "reasoning_gym":
        yield from _reasoning_gym(config, seed)
    elif config.source == "hf":
        yield from problems_of_rows(config.columns, str(config.path), _hub_rows(config))
    else:
        yield from file_problems(Path(str(config.path)), config.columns)


def arithmetic_problems(config: ArithmeticConfig, seed: int) -> tuple[list[Problem], list[Problem]]:
    """(training, held-out) problems; every pair of summands is in exactly one of the two."""
    numbers = range(config.low, config.high + 1)
    problems = [Problem(f"add-{a}-{b}", f"{a}+{b}=", str(a + b), "arithmetic") for a in numbers for b in numbers]
    random.Random(seed_of(seed, "arithmetic split")).shuffle(problems)
    return problems[config.heldout :], problems[: config.heldout]


def _hub_rows(config: PromptsConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import datasets

    path = str(config.path)
    if (Path(path) / "dataset_dict.json").is_file() or (Path(path) / "dataset_info.json").is_file():
        loaded = datasets.load_from_disk(path)
        rows: Any = loaded[config.split] if isinstance(loaded, datasets.DatasetDict) else loaded
    else:
        rows = datasets.load_dataset(path, config.subset, split=config.split, revision=config.revision)
    for number, row in enumerate(rows):
        yield f"{path}[{config.split}] row {number}", row


def _reasoning_gym(config: PromptsConfig, seed: int) -> Iterator[Problem]:
    with needing("gym", "prompts.source: reasoning_gym"):
        import reasoning_gym

    settings = config.reasoning_gym
    assert settings is not None  # PromptsConfig refuses this source without it
    for task in settings.tasks:
        options = settings.options.get(task, {})
        data = reasoning_gym.create_dataset(task, size=settings.size, seed=seed_of(seed, task) % 2**31, **options)
        for number, entry in enumerate(data):
            # The scorer wants the whole entry back; it is plain JSON for every task of the paper.
            extra = {"task": task, "entry": json.loads(json.dumps(entry, default=str))}
            yield Problem(f"{task}-{number}", entry["question"], str(entry["answer"]), task, "reasoning_gym", extra)


def _refuse_repeated_ids(problems: list[Problem], path: str) -> None:
    seen: set[str] = set()
    for row, problem in enumerate(problems):
        if problem.id in seen:
            raise TbrmError(f"{path} row {row}: id {problem.id!r} stands twice, but trajectory ids are made from it")
        seen.add(problem.id)


QWEN_MATH = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{{}}.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
R1 = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {question}\nAssistant:"
)
_TEMPLATES = {"qwen-math": QWEN_MATH, "r1": R1, "raw": "{question}"}


def question_of(text: str) -> str:
    """The question inside a prompt of the paper's two templates; any other text as it is."""
    for template in (QWEN_MATH, R1):
        before, after = template.format(question="\0").split("\0")
        if text.startswith(before) and text.endswith(after):
            return text[len(before) : len(text) - len(after)]
    return text


def template_version(template: str) -> str:
    """Names the text of a template, so that scores by a changed one are told apart; `chat` is the policy's own."""
    return "chat" if template == "chat" else text_hash(_TEMPLATES.get(template, template))[:12]


def render(template: str, question: str, tokenizer: Any) -> str:
    """The prompt text of `question`. `chat` uses the tokenizer's own template with one user message.

    Special tokens stand in the text; it is tokenized without adding any.
    """
    if template == "chat":
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
    return _TEMPLATES[template].format(question=question)


def prompt_row(problem: Problem, template: str, tokenizer: Any) -> dict[str, Any]:
    """One row of `prompts`. Special tokens stand in the template's text, so the tokenizer adds none.

    `verifier` stays empty where the problem needs none of its own: whoever labels the responses chooses it.
    """
    text = render(template, problem.text, tokenizer)
    return {
        "prompt_id": problem.id,
        "prompt_text": text,
        "prompt_token_ids": tokenizer.encode(text, add_special_tokens=False),
        "answer": problem.answer,
        "verifier": problem.verifier or "",
        "source": problem.source,
        "extra": json.dumps(problem.extra, sort_keys=True),
    }


def table_problems(prompts: Partition) -> Iterator[Problem]:
    """Rows of a `prompts` table as problems, without their template where it is one of the known two."""
    for _, rows in prompts.iter_shards(["prompt_id", "prompt_text", "answer", "source"]):
        for row in rows.to_pylist():
            yield Problem(row["prompt_id"], question_of(row["prompt_text"]), row["answer"], row["source"])


def prompt_rows(
    problems: Iterable[Problem], template: str, tokenizer: Any, max_tokens: int
) -> tuple[list[dict[str, Any]], list[tuple[int, dict[str, Any]]]]:
    """(rows, those left out because their prompt is longer than `max_tokens`, each with its position in the draw)."""
    rows = [prompt_row(problem, template, tokenizer) for problem in problems]
    fits = [len(row["prompt_token_ids"]) <= max_tokens for row in rows]
    kept = [row for row, good in zip(rows, fits, strict=True) if good]
    return kept, [(i, row) for i, (row, good) in enumerate(zip(rows, fits, strict=True)) if not good]


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
