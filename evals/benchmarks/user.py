"""A benchmark of your own: a YAML file that names problems, columns, verifier and protocol."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from evals.benchmarks.sources import checked, problem_of, read_hub, read_rows
from evals.benchmarks.types import GREEDY, Benchmark, HubSource, ProblemSource
from pipeline.config.base import Config
from pipeline.config.evaluation import Protocol
from pipeline.config.load import read_yaml
from pipeline.config.prompts import Columns
from pipeline.errors import ConfigError
from pipeline.prompts import Problem

NAME = r"^[a-z0-9][a-z0-9_]{0,47}$"


class HubDefinition(Config):
    """A data set on the Hugging Face hub."""

    id: str
    """Repository, e.g. `org/name`."""
    revision: str
    """Commit: a branch would change under the scores."""
    split: str = "test"
    """Split of the data set."""
    config: str | None = None
    """Configuration of the data set."""


class BenchmarkDefinition(Config):
    """The fields of the YAML file."""

    name: str = Field(pattern=NAME)
    """Lower-case letters, digits and `_`."""
    title: str = ""
    """For people."""
    problems: str | None = None
    """JSONL file, relative to the YAML file."""
    hub: HubDefinition | None = None
    """Instead of a file."""
    columns: Columns = Columns()
    """Field names of a row."""
    verifier: str | None = None
    """Verifier of rows that name none in a field `verifier`. By default the experiment's."""
    row_verifiers: tuple[str, ...] = ()
    """Further built-in verifiers that rows may name."""
    reasoning_gym_tasks: tuple[str, ...] = ()
    """Tasks of reasoning-gym that rows may name in `extra.task`."""
    protocol: Protocol = GREEDY
    """Samples, temperature and limits; greedy by default."""
    rows: int | None = Field(default=None, gt=0)
    """Row count that the problems must have."""
    content_hash: str | None = None
    """As `tbrm benchmarks` prints it; a difference is shown beside every score."""

    @model_validator(mode="after")
    def _one_source(self) -> "BenchmarkDefinition":
        if (self.problems is None) == (self.hub is None):
            raise ValueError("give `problems`, a JSONL file, or `hub`, and not both")
        return self


def read_definition(path: Path) -> Benchmark:
    """The benchmark that a YAML file defines. Raises ConfigError naming file and field."""
    if not path.is_file():
        raise ConfigError(f"benchmark definition {path} does not exist")
    try:
        found = BenchmarkDefinition.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'benchmark'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path} is not a benchmark definition:\n" + "\n".join(lines)) from error
    hub = _hub_source(found.hub, found.columns, found.name) if found.hub else None
    return Benchmark(
        name=found.name,
        title=found.title or found.name,
        load=partial(_load, found, path, hub),
        protocol=found.protocol,
        origin=hub.origin if hub else f"{path.name}: {found.problems}",
        rows=(found.rows,) if found.rows else (),
        content_hash=found.content_hash,
        verifiers=(*((found.verifier,) if found.verifier else ()), *found.row_verifiers),
        tasks=found.reasoning_gym_tasks,
        hub=hub,
    )


def _hub_source(hub: HubDefinition, columns: Columns, name: str) -> HubSource:
    return HubSource(
        id=hub.id,
        revision=hub.revision,
        question=columns.problem,
        answer=lambda row: str(row[columns.answer]),
        identify=lambda row, number: str(row.get(columns.id, f"{name}-{number:04d}")),
        split=hub.split,
        config=hub.config,
    )


def _load(found: BenchmarkDefinition, path: Path, hub: HubSource | None, source: ProblemSource) -> list[Problem]:
    del source
    if hub is not None:
        return read_hub(hub, found.name)
    file = path.parent / str(found.problems)
    problems = [
        problem_of(_renamed(row, found.columns), where, found.name, number, found.verifier)
        for number, (where, row) in enumerate(read_rows(file, found.name), start=1)
    ]
    return checked(problems, str(file))


def _renamed(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """The row with our field names instead of the file's."""
    ours = {columns.id: "id", columns.problem: "problem", columns.answer: "answer"}
    return {ours.get(field, field): value for field, value in row.items()}
