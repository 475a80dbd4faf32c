"""Rows of logs with one thing wrong, by a seed."""

import copy
import math
import random
from typing import Any

_VALUES: tuple[Any, ...] = (
    *(None, "", "x", [], {}, [[]], [None], [{}], True, -1, 0, 3, 2**40, 10**400, 0.5, math.nan, math.inf, "\ud800"),
    *([1, 2, 3], ["a"], {"a": {"b": []}}, [{"role": "user"}], [{"role": "robot", "content": "x"}], "token_id:x"),
)


def damaged(row: Any, seed: int) -> Any:
    """`row` with one value lost, replaced, cut, doubled, put into a list or moved to another name."""
    chance = random.Random(seed)
    found = copy.deepcopy(row)
    holder, key = chance.choice(list(places(found)))
    value = holder[key]
    match chance.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(value, list | str) and value:
            holder[key] = value[: chance.randrange(len(value))]
        case 2 if isinstance(value, list) and value:
            holder[key] = [*value, value[0]]
        case 3:
            holder[key] = [value]
        case 4 if isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)
        case _:
            holder[key] = copy.deepcopy(chance.choice(_VALUES))
    return found


def places(tree: Any) -> Any:
    """(container, key) of every value inside `tree`."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from places(value)
