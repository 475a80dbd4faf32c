"""Reading problems: from a JSONL file with the fields id, problem and answer, or from a repository on the hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evals.benchmarks.types import HubSource, Row
from pipeline.errors import TbrmError
from pipeline.prompts import Problem
from pipeline.prompts.problems import json_lines


def read_jsonl(path: Path, name: str) -> list[Problem]:
    """The problems of a file. Raises TbrmError naming file, line and field."""
    rows = enumerate(read_rows(path, name), start=1)
    return checked([problem_of(row, where, name, number) for number, (where, row) in rows], str(path))


def read_rows(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    """(place, row) of every line of a JSONL file. Raises TbrmError naming file and line."""
    if not path.is_file():
        raise TbrmError(f"benchmark {name}: {path} does not exist")
    yield from json_lines(path)


def checked(problems: list[Problem], where: str) -> list[Problem]:
    """The problems, if there are some and every id is unique: scores of two policies are paired by it."""
    if not problems:
        raise TbrmError(f"{where} holds no problems")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise TbrmError(f"{where}: id {problem.id!r} stands twice; give every problem its own")
        seen.add(problem.id)
    return problems


def problem_of(row: Row, where: str, name: str, number: int, verifier: str | None = None) -> Problem:
    """One row with the fields problem and answer, optionally id, verifier and extra, as a problem."""
    for field in ("problem", "answer"):
        value = row.get(field)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            found = f"holds {value!r:.80}" if field in row else f"is missing; the row has {', '.join(row)}"
            raise TbrmError(f"{where}: field {field!r} {found}; it must be text")
    extra = row.get("extra") or {}
    if not isinstance(extra, dict):
        raise TbrmError(f"{where}: field 'extra' must be an object, not {type(extra).__name__}")
    named = row.get("verifier") or verifier
    identifier = str(row.get("id", f"{name}-{number:04d}"))
    return Problem(identifier, str(row["problem"]), str(row["answer"]), name, str(named) if named else None, extra)


def read_hub(hub: HubSource, name: str, snapshot: Path | None = None) -> list[Problem]:
    """The problems of a repository, or of its copy in the folder `snapshot`. Raises TbrmError."""
    import datasets
    from datasets.exceptions import DatasetsError

    where = str(snapshot or hub.id)
    revision = None if snapshot else hub.revision
    try:
        rows: Any = datasets.load_dataset(where, hub.config, split=hub.split, revision=revision)
    except (OSError, ValueError, DatasetsError) as error:
        raise TbrmError(
            f"benchmark {name} cannot be loaded from {where}, split {hub.split}: {error}. Without access to the hub, "
            "name a folder of JSONL files with `evaluation.source` or --source"
        ) from error
    return checked([_problem(row, number, hub, name, where) for number, row in enumerate(rows)], where)


def _problem(row: Row, number: int, hub: HubSource, name: str, where: str) -> Problem:
    try:
        return Problem(hub.identify(row, number), str(row[hub.question]), hub.answer(row), name)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise TbrmError(
            f"{where} row {number}: {type(error).__name__} {error}; the row has {', '.join(row)}. "
            f"The repository is not what benchmark {name} expects"
        ) from error
