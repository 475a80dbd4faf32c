"""Samples out of a file of `torch.save`, as slime and miles write them, in the reader's process.

Only `weights_only` loading is used: it builds numbers, text, containers and tensors, and runs nothing a file names.
The file is decoded as a whole, under the reader's limit of memory.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import xxhash

from pipeline.errors import TbrmError
from pipeline.logged.raw import RawRow, too_large
from pipeline.logged.sources import LogFile, Part, open_part

_ELEMENT_BYTES = 8


def torch_rows(file: LogFile, limit: int, opened: Callable[[LogFile], Part] = open_part) -> Iterator[RawRow]:
    """Rows of {"samples": […]} or of a list. Raises TbrmError for a file that holds anything else, and MemoryError."""
    for number, sample in enumerate(_samples(file, opened), start=1):
        size = _size(sample, limit)
        if size > limit:
            yield too_large(file.name, number, size, limit, size)
            continue
        if not isinstance(sample, Mapping):
            problem = f"a {type(sample).__name__}, not an object"
            yield RawRow(file.name, number, None, problem, number, size)
            continue
        try:
            row: Any = _plain(sample)
            told = json.dumps(row, sort_keys=True, default=str)
        except (ValueError, TypeError, RuntimeError) as error:  # a tensor without values; values that hold themselves
            yield RawRow(file.name, number, None, f"holds a value that cannot be read: {error}"[:200], number, size)
            continue
        yield RawRow(file.name, number, row, None, xxhash.xxh3_64_intdigest(told.encode()), size)


def _samples(file: LogFile, opened: Callable[[LogFile], Part]) -> list[Any]:
    import torch

    try:
        with io.BufferedReader(opened(file)) as raw:
            tree: Any = torch.load(raw, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes the unpickler raise anything
        # Torch's own text advises to load the file without `weights_only`, which would run what a stranger wrote.
        told = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the doc")[0]
        reason = " ".join(told.split())[:300] or type(error).__name__
        raise TbrmError(
            f"{file.name} cannot be read: {reason}. Only numbers, text, lists, objects and tensors are read from it; "
            "write its samples as JSON lines where it holds more"
        ) from error
    samples = tree.get("samples") if isinstance(tree, Mapping) else tree
    if not isinstance(samples, list):
        raise TbrmError(f"{file.name} holds no list `samples`, as slime's save_debug_rollout_data writes it")
    return samples


def _size(tree: Any, most: int) -> int:
    """Bytes of a value, spelled out: as long as its text, and eight for each number or element.

    Counted until there are more than `most`: what holds one part in many places, or itself, may be endless.
    """
    size, left = 0, [tree]
    while left and size <= most:
        each = left.pop()
        size += _ELEMENT_BYTES
        if isinstance(each, str):
            size += len(each)
        elif isinstance(each, Mapping):
            left += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            left += each
        elif hasattr(each, "numel"):
            size += _ELEMENT_BYTES * int(each.numel())
    return size


def _plain(tree: Any) -> Any:
    """The tree with tensors as lists."""
    if hasattr(tree, "numel"):
        return tree.tolist()
    if isinstance(tree, Mapping):
        return {str(key): _plain(value) for key, value in tree.items()}
    return [_plain(each) for each in tree] if isinstance(tree, list | tuple) else tree
