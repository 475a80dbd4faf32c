"""JSON text as Python values, where lists of a number for each token are arrays: they take a fifth of the time.

simdjson reads them without an object for each number. What it refuses is asked of Python's own parser, which takes more
(`NaN`, halves of surrogate pairs, whole numbers of any length) and says what is wrong where it refuses as well.
"""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import simdjson

from pipeline.logged.raw import PER_TOKEN

_PARSER = simdjson.Parser()
"""One, whose memory is used again. While values of it are held it refuses to parse, which is a RuntimeError."""
FEWEST = 32
"""Shorter lists are made of Python's numbers."""
_MOST_NAMES = 256
"""Objects of more names are read whole: each look-up in one takes as long as its names."""
_REFUSALS = (ValueError, RuntimeError, RecursionError, LookupError)
"""What simdjson raises: also UnicodeDecodeError, and RuntimeError for what is nested too deeply."""


def parse(text: bytes) -> Any:
    """The value of a JSON text. Raises UnicodeDecodeError, ValueError and RecursionError, as `json.loads` does."""
    try:
        values = _Values()
        found = values.of(_PARSER.parse(text))
        if values.brackets == text.count(b"["):
            return found
    except _REFUSALS:
        pass
    return json.loads(text.decode("utf-8"))


class _Values:
    """Python values of a parsed text, counting the brackets that they account for.

    simdjson flattens a list within a list of numbers. Its brackets are then missing from the count.
    """

    def __init__(self) -> None:
        self.brackets = 0

    def of(self, value: Any, per_token: bool = False) -> Any:
        """The value, whose lists of numbers are arrays with `per_token`. Raises ValueError for a name that stands twice
        in an object."""
        if isinstance(value, str):
            self.brackets += value.count("[")
            return value
        if isinstance(value, simdjson.Object):
            return self._object(value)
        if not isinstance(value, simdjson.Array):
            return value
        self.brackets += 1
        if per_token and len(value) >= FEWEST and (numbers := _numbers(value)) is not None:
            return numbers
        return [self.of(each, per_token) for each in value]

    def _object(self, value: Any) -> dict[str, Any]:
        if len(value) > _MOST_NAMES:
            self.brackets += value.mini.count(b"[")
            return value.as_dict()
        names: list[str] = list(value)
        if len(set(names)) < len(names) or any("\0" in name for name in names):
            raise ValueError("a name stands twice in an object, or is cut off where it is looked up")
        self.brackets += sum(name.count("[") for name in names)
        return {name: self.of(value[name], name in PER_TOKEN) for name in names}


def _numbers(array: Any) -> npt.NDArray[Any] | None:
    """The numbers of a list that holds nothing else, as whole numbers or as floats; None for other lists."""
    kinds: tuple[tuple[str, type[np.generic]], ...] = (("i", np.int64), ("d", np.float64))
    if type(array[0]) not in (int, float):
        return None
    for code, kind in kinds:
        try:
            found = np.frombuffer(array.as_buffer(of_type=code), kind)
        except (TypeError, ValueError):
            continue
        return found if len(found) == len(array) else None
    return None
