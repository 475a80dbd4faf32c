"""Benchmarks on the Hugging Face hub, each pinned to a commit, in the columns that its repository has."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.benchmarks.local import checked
from evals.benchmarks.types import Row
from pipeline.errors import TbrmError
from pipeline.prompts import Problem


@dataclass(frozen=True)
class HubSource:
    """A data set repository. `answer` reads the gold answer of a row, `identify` names row number n (from 0)."""

    id: str
    revision: str | None
    question: str
    answer: Callable[[Row], str]
    identify: Callable[[Row, int], str]
    split: str = "test"
    config: str | None = None

    @property
    def place(self) -> tuple[str, str | None]:
        """The repository and its commit."""
        return self.id, self.revision


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
