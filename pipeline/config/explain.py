"""Every field of the configuration, from its own type: for `tbrm config explain`, docs/configuration.md and editors."""

import inspect
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.base import mark_of, model_in
from pipeline.config.experiment import Experiment
from pipeline.errors import ConfigError, did_you_mean
from pipeline.markdown import markdown_table

PAGES = {
    "policy": "data.md",
    "prompts": "data.md",
    "rollouts": "rollouts.md",
    "rewards": "rewards.md",
    "reference": "rollouts.md",
    "replay": "mix.md",
    "training": "objectives.md",
    "evaluation": "evaluation.md",
    "servers": "security.md",
    "ray": "cluster.md",
    "launch": "cluster.md",
}
"""The page of docs/ that explains a part of the experiment; data.md for what is not named."""
EVERYTHING, ONE_GENERATION, SCORES, NOTHING = "every generation", "its generation", "its scores", "nothing stored"
_SIGNS = {Gt: ("gt", ">"), Ge: ("ge", "≥"), Lt: ("lt", "<"), Le: ("le", "≤")}


@dataclass(frozen=True)
class ExplainedField:
    """A field of an experiment's YAML."""

    path: str
    """Dotted, as in `--set`; `[]` stands for any entry of a list, `<name>` for any key of a mapping."""
    type: str
    """Its type or choices, with their bounds."""
    default: str | None
    """As in YAML; None: it has to be given."""
    decides: str
    """What another value of it changes: `every generation` of the experiment has to agree in it, it may differ from
    generation to generation (`its generation`), it is part of a score's protocol (`its scores`), or it decides
    `nothing stored`."""
    about: str
    """What it is, in which unit, and when to change it."""
    page: str
    """The page of docs/ that explains it."""


def explained_fields() -> list[ExplainedField]:
    """Every field, parts before their own fields, in the order of the YAML."""
    return list(_fields(Experiment, ""))


def explain(path: str) -> list[ExplainedField]:
    """The field at `path` and those below it. Raises ConfigError with the nearest name where there is none."""
    fields = explained_fields()
    found = [field for field in fields if f"{_plain(field.path)}.".startswith(f"{_plain(path)}.")]
    if found:
        return found
    same_name = [field for field in fields if field.path.rpartition(".")[2] == path]
    if same_name:
        return same_name
    nearest = did_you_mean(path, [name for field in fields for name in (field.path, field.path.rpartition(".")[2])])
    raise ConfigError(f"no field {path!r}.{nearest} `tbrm config explain` lists all")


def json_schema() -> dict[str, Any]:
    """JSON Schema of an experiment's YAML, for editors (`# yaml-language-server: $schema=…`)."""
    tree = Experiment.model_json_schema()
    tree["properties"]["rollouts"]["anyOf"].append({"const": "none"})  # YAML has no such word for null
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **tree}


def configuration_page() -> str:
    """docs/configuration.md."""
    lines = [_INTRODUCTION]
    for section, fields in groupby(explained_fields(), _section):
        page = f"Explained in [{PAGES[section][:-3]}]({PAGES[section]}).\n" if section in PAGES else ""
        rows = (
            [f"`{f.path}`", f.type, "required" if f.default is None else f"`{f.default}`", f.decides, f.about]
            for f in fields
        )
        table = markdown_table(("field", "type", "default", "decides", "what it is"), rows)
        lines += [f"\n## {section}\n", *([page] if page else []), table]
    return "\n".join(lines) + "\n"


def _section(field: ExplainedField) -> str:
    part = field.path.partition(".")[0]
    return part if part in PAGES else "experiment"


def _fields(model: type[BaseModel], above: str, decided: str | None = None) -> Iterator[ExplainedField]:
    """`decided`: what all of this part decides, whatever its fields say."""
    part = above.partition(".")[0]
    for name, field in model.model_fields.items():
        path = f"{above}.{name}" if above else name
        below, into = model_in(field.annotation)
        about = field.description or (inspect.getdoc(below) if below else None) or ""
        page = PAGES.get(part or name, "data.md")
        decides = decided or _decides(field)
        if decides == EVERYTHING and (part or name) == "evaluation":
            decides = SCORES
        yield ExplainedField(path, _type(field), _default(field), decides, " ".join(about.split()), page)
        if below:
            yield from _fields(below, path + into, decided or (NOTHING if decides == NOTHING else None))


def _type(field: FieldInfo) -> str:
    choices = field.json_schema_extra
    if isinstance(choices, dict) and isinstance(choices.get("enum"), list):
        return " or ".join(f"`{choice}`" for choice in typing.cast("list[str]", choices["enum"]))
    bounds = [
        f"{sign} {getattr(mark, name):,}"
        for mark in field.metadata
        for kind, (name, sign) in _SIGNS.items()
        if isinstance(mark, kind)
    ]
    bounds += ["not empty" for mark in field.metadata if isinstance(mark, MinLen)]
    return ", ".join([_annotation(field.annotation), *bounds])


_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "none"}


def _annotation(annotation: Any) -> str:
    if annotation in _NAMES:
        return _NAMES[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_annotation(argument) for argument in arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"[{', '.join(_annotation(argument) for argument in arguments)}]"
    if origin is tuple:
        return f"list of {_annotation(arguments[0])}"
    if origin is dict:
        return f"mapping of {_annotation(arguments[1])}"
    return "mapping"


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value == {}:
        return "{}"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value) or '""'


def _decides(field: FieldInfo) -> str:
    mark = mark_of(field)
    return EVERYTHING if mark.alike else ONE_GENERATION if mark.hashed else NOTHING


def _plain(path: str) -> str:
    return path.replace("[]", "").replace(".<name>", "")


_INTRODUCTION = """# Configuration

Every field of an experiment's YAML. This page is written by `scripts/write-configuration` from the configuration's own
types. `tbrm config explain training.beta` prints a field, `tbrm config explain training` a part, and
`tbrm config show NAME` what an experiment says once every default is filled in. `--set PATH=VALUE` overrides a field.

Editors complete and check the YAML by [experiment.schema.json](experiment.schema.json), which the first line of each
shipped experiment names.

**decides** says what another value changes:

- *every generation*: all generations of an experiment have to agree in it; a changed one is refused by its name.
- *its generation*: generations may differ in it.
- *its scores*: it is part of the protocol by which a score was made.
- *nothing stored*: it says how fast or where the work is done, or what is reported; the rows stay the same."""
