"""Benchmarks in a folder: one JSONL file each, with the fields id, problem and answer."""

from collections.abc import Iterator
from pathlib import Path

from evals.benchmarks.types import Row
from pipeline.errors import TbrmError
from pipeline.prompts import Problem
from pipeline.prompts.files import json_lines


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
