"""Where problems come from: files, `datasets`, reasoning-gym, or generated additions of two numbers."""

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config.experiment import Experiment
from pipeline.config.prompts import ArithmeticConfig, PromptsConfig
from pipeline.errors import TbrmError
from pipeline.prompts.contamination import without_overlap
from pipeline.prompts.files import file_problems, problems_of_rows
from pipeline.prompts.problem import Problem
from pipeline.store import seed_of


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
