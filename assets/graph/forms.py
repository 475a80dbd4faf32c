"""The form in which a run of a stage is configured: the fields that are changed most, typed and filled in.

Whatever else a run may set goes into `overrides`.
"""

import json
import typing
from collections.abc import Sequence
from enum import Enum
from functools import cache
from typing import Any, Literal, get_args, get_origin

from dagster import Config
from pydantic import Field, create_model

from assets.experiment.stages import Stage
from pipeline.config import Experiment
from pipeline.config.explain import explained_fields
from pipeline.config.rewards import BUILTIN_VERIFIERS


class StageConfig(Config):
    """Run config of every stage; the defaults are the experiment's YAML."""

    overrides: list[str] = Field(
        default=[],
        description="Further fields set for this run only, as path.to.field=value, e.g. training.weight_decay=0.1. "
        "What names code, hosts or places is set in the YAML alone.",
    )
    replace: bool = Field(
        default=False,
        description="Write a committed partition anew (with other settings); the old one is kept beside it.",
    )


def form_of(experiment: Experiment, stage: Stage) -> type[StageConfig]:
    """The run config of a stage: `StageConfig`, and a field for each path in `stage.form`, as the YAML has it."""
    fields: dict[str, Any] = {}
    for path in stage.form:
        kind, value = _typed(experiment, path), _value(experiment, path)
        fields[_name(path)] = (kind, Field(default=_of_kind(kind, value), description=_about()[path]))
    made: Any = create_model(f"{experiment.name}_{stage.name}", __base__=StageConfig, **fields)
    return made


def overrides_of(experiment: Experiment, stage: Stage, config: StageConfig) -> list[str]:
    """What a filled-in form changes of the experiment that it was made for, as overrides."""
    found: list[str] = []
    for path in stage.form:
        given = getattr(config, _name(path))
        value = given.value if isinstance(given, Enum) else given
        if value != _plain(_value(experiment, path)):
            found.append(f"{path}={json.dumps(value)}")
    return [*found, *config.overrides]


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _value(experiment: Experiment, path: str) -> Any:
    part, _, name = path.partition(".")
    return getattr(getattr(experiment, part), name)


def _typed(experiment: Experiment, path: str) -> Any:
    """The type of a field for Dagster, whose forms know choices as enumerations."""
    part, _, name = path.partition(".")
    annotation = type(getattr(experiment, part)).model_fields[name].annotation
    if path == "rewards.verifier":
        known = (*BUILTIN_VERIFIERS, *experiment.rewards.user_verifiers, experiment.rewards.verifier)
        return _choices(f"{experiment.name}_verifier", tuple(dict.fromkeys(known)))
    if get_origin(annotation) is Literal:
        return _choices(name, get_args(annotation))
    return list[str] if get_origin(annotation) is tuple else annotation


@cache
def _choices(name: str, values: Sequence[str]) -> type[Enum]:
    members: Any = {value: value for value in values}
    return typing.cast("type[Enum]", Enum(name, members))


def _of_kind(kind: Any, value: Any) -> Any:
    return kind(value) if isinstance(kind, type) and issubclass(kind, Enum) else _plain(value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@cache
def _about() -> dict[str, str]:
    return {field.path: field.about for field in explained_fields()}
