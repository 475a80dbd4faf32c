"""What every part of an experiment's configuration shares, and how a field says that it does not decide what is stored.

A field decides the bytes of what its stage writes, unless its type says otherwise: whoever adds a field and forgets to
think about it gets stored data made again, never old data under a new setting.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

T = TypeVar("T")


@dataclass(frozen=True)
class Mark:
    """What a field decides."""

    hashed: bool
    """Its value is part of the stage's hash."""
    alike: bool
    """All generations of an experiment have to agree in it."""


DecidesNothing = Annotated[T, Mark(hashed=False, alike=False)]
"""The field says how fast or where the work is done, or what is reported about it: the rows are the same."""
DecidesOneGeneration = Annotated[T, Mark(hashed=True, alike=False)]
"""Another value gives other bytes, but so little else (the last bits of a log-prob) that the generations of one
experiment may have different values."""
DecidesByContent = Annotated[T, Mark(hashed=False, alike=True)]
"""The field names something, such as a folder, whose content the stage hashes in place of the name."""


class Config(BaseModel):
    """Immutable, and a key nobody knows is an error rather than a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    def deciding(self) -> dict[str, Any]:
        """The fields that decide bytes with their values, for the hash of a stage."""
        return self.model_dump(mode="json", include=set(self._fields("hashed")))

    @classmethod
    def alike_fields(cls, path: str) -> tuple[str, ...]:
        """Dotted paths of the fields in which all generations of an experiment have to agree; this part's is `path`."""
        return tuple(f"{path}.{name}" for name in cls._fields("alike"))

    @classmethod
    def fields_of_one(cls, path: str) -> tuple[str, ...]:
        """Dotted paths of the fields that decide bytes, and may differ between generations."""
        alike = cls._fields("alike")
        return tuple(f"{path}.{name}" for name in cls._fields("hashed") if name not in alike)

    @classmethod
    def _fields(cls, which: str) -> list[str]:
        return [name for name, field in cls.model_fields.items() if getattr(mark_of(field), which)]


def mark_of(field: FieldInfo) -> Mark:
    """What a field decides: everything, where its type does not say otherwise."""
    return next((mark for mark in field.metadata if isinstance(mark, Mark)), Mark(hashed=True, alike=True))


def model_in(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The part of the configuration that a type holds, and how a path leads into it: `[]` for lists."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return None, ""
    into = "[]" if origin is tuple else ".<name>" if origin is dict else ""
    for argument in arguments:
        model, deeper = model_in(argument)
        if model:
            return model, into + deeper
    return None, ""


def stage_hash(*parts: BaseModel | Mapping[str, Any] | str | int | float | None) -> str:
    """Hash of the configuration that decides a stage's bytes; 16 hex digits, equal on any machine for equal parts."""
    plain = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
