"""A problem of a prompt set or benchmark, and problems in files that a user wrote.

What is wrong in a file is told with file, row and field.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from pipeline.config.prompts import Columns
from pipeline.errors import TbrmError


@dataclass(frozen=True)
class Problem:
    """A question and its gold answer. `verifier` None means the experiment's own; `extra` is what a verifier needs."""

    id: str
    text: str
    answer: str
    source: str
    verifier: str | None = None
    extra: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])


MAX_LINE_BYTES = 16 * 2**20


def file_problems(path: Path, columns: Columns) -> Iterator[Problem]:
    """Problems of a JSONL or Parquet file, one at a time. Raises TbrmError naming file, row and field."""
    return problems_of_rows(columns, str(path), _file_rows(path))


def problems_of_rows(columns: Columns, path: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Problem]:
    """Rows, each with the place where it stands, as problems. Raises TbrmError naming place and field."""
    source = Path(path).name
    for number, (where, row) in enumerate(rows):
        for name in (columns.problem, columns.answer):
            if not isinstance(row.get(name), str | int | float) or isinstance(row[name], bool):
                found = (
                    f"holds {type(row[name]).__name__}" if name in row else f"is missing; the row has {', '.join(row)}"
                )
                raise TbrmError(f"{where}: field {name!r} {found}. Name the right field in `prompts.columns`")
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


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every line that is not empty. Raises TbrmError naming file and line."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path} line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise TbrmError(f"{where} has more than {MAX_LINE_BYTES >> 20} MiB: split it, or leave it out")
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise TbrmError(f"{where} is not JSON in UTF-8: {error}") from error
            if not isinstance(row, dict):
                raise TbrmError(f"{where} is not a JSON object")
            yield where, row
