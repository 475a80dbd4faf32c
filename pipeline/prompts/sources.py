"""Where problems come from: files, `datasets`, reasoning-gym, or generated additions."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config.prompts import Columns, PromptsConfig
from pipeline.errors import TbrmError
from pipeline.prompts.arithmetic import arithmetic_problems
from pipeline.prompts.files import json_lines
from pipeline.prompts.problem import Problem
from pipeline.store import seed_of


def load_problems(config: PromptsConfig, seed: int) -> list[Problem]:
    """Every training problem of the set, in the source's order, without those that `exclude_overlap` leaves out.

    Raises TbrmError naming file, row and field.
    """
    from pipeline.prompts.contamination import without_overlap  # it reads benchmark files with this module

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


def _all_problems(config: PromptsConfig, seed: int) -> Iterator[Problem]:
    if config.source == "arithmetic":
        yield from arithmetic_problems(config.arithmetic, seed)[0]
    elif config.source == "reasoning_gym":
        yield from _reasoning_gym(config, seed)
    elif config.source == "hf":
        yield from _from_rows(config.columns, str(config.path), _hub_rows(config))
    else:
        yield from file_problems(Path(str(config.path)), config.columns)


def file_problems(path: Path, columns: Columns) -> Iterator[Problem]:
    """Problems of a JSONL or Parquet file, one at a time. Raises TbrmError naming file, row and field."""
    return _from_rows(columns, str(path), _file_rows(path))


def _from_rows(columns: Columns, path: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Problem]:
    source = Path(path).name
    for number, (where, row) in enumerate(rows):
        for field in (columns.problem, columns.answer):
            if not isinstance(row.get(field), str | int | float) or isinstance(row[field], bool):
                found = (
                    f"holds {type(row[field]).__name__}"
                    if field in row
                    else f"is missing; the row has {', '.join(row)}"
                )
                raise TbrmError(f"{where}: field {field!r} {found}. Name the right field in `prompts.columns`")
        yield Problem(
            id=str(row.get(columns.id, number)),
            text=str(row[columns.problem]),
            answer=_gold(str(row[columns.answer]), columns, where),
            source=source,
        )


def _gold(answer: str, columns: Columns, where: str) -> str:
    if columns.answer_after is None:
        return answer
    _, mark, gold = answer.rpartition(columns.answer_after)
    if not mark:
        raise TbrmError(f"{where}: field {columns.answer!r} does not contain {columns.answer_after!r}")
    return gold.strip()


def _file_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.is_file():
        raise TbrmError(f"prompt file {path} does not exist; `prompts.path` is relative to the working directory")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        parts = (batch.to_pylist() for batch in pq.ParquetFile(path).iter_batches())
        for number, row in enumerate(row for part in parts for row in part):
            yield f"{path} row {number}", row
        return
    yield from json_lines(path)


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
