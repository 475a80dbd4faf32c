"""Objects of a JSONL file that a user wrote: prompts, benchmarks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import TbrmError

MAX_LINE_BYTES = 16 * 2**20


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
