"""Sizes of Arrow arrays before they become Python objects."""

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.logged.columnar import ELEMENT_BYTES, row_sizes

LONGEST = 2**31 - 1


def spelled(value: Any) -> int:
    """The size of a value, counted the plain way."""
    if isinstance(value, str | bytes):
        return ELEMENT_BYTES + len(value)
    if isinstance(value, dict):
        return ELEMENT_BYTES + sum(spelled(each) for each in value.values())
    if isinstance(value, list):
        return ELEMENT_BYTES + sum(spelled(each) for each in value)
    return ELEMENT_BYTES


RUNS = pa.RunEndEncodedArray.from_arrays(pa.array([1, 3, 4], pa.int32()), pa.array(["a", "bbb", "c"]))
ARRAYS: dict[str, Any] = {
    "text": pa.array(["a", "", "ccc", "dd"]),
    "large text": pa.array(["a", "", "ccc", "dd"], pa.large_string()),
    "views of text": pa.array(["a", "", "c" * 60, "dd"], pa.string_view()),
    "bytes": pa.array([b"a", b"", b"ccc", b"dd"]),
    "lists": pa.array([[1], [], [2, 3], [4]]),
    "large lists": pa.array([["a"], [], ["b", "cc"], ["d"]], pa.large_list(pa.string())),
    "views of lists": pa.array([[1], [], [2, 3], [4]], pa.list_view(pa.int64())),
    "structs": pa.array([{"a": 1, "b": "x"}, {"a": 2, "b": ""}, {"a": 3, "b": "yyy"}, {"a": 4, "b": "z"}]),
    "dictionary": pa.array(["a", "bb", "a", "ccc"]).dictionary_encode(),
    "lists of dictionary": pa.ListArray.from_arrays(
        [0, 1, 1, 3, 4], pa.array(["a", "bb", "a", "ccc"]).dictionary_encode()
    ),
    "runs": RUNS,
    "lists of runs": pa.ListArray.from_arrays([0, 1, 1, 3, 4], RUNS),
    "union": pa.UnionArray.from_dense(
        pa.array([0, 1, 0, 1], pa.int8()),
        pa.array([0, 0, 1, 1], pa.int32()),
        [pa.array([1, 2]), pa.array(["x", "yyy"])],
    ),
    "nulls": pa.nulls(4),
    "times": pa.array([datetime.datetime(2020, 1, 1)] * 4),
    "decimals": pa.array([Decimal(1), Decimal(2), Decimal(3), None]),
    "deep": pa.array([[{"a": ["x"]}], [], [{"a": ["y", "zz"]}, {"a": []}], [{"a": [""]}]]),
}


@pytest.mark.parametrize("name", list(ARRAYS))
def test_sizes_are_those_of_the_values_in_slices_too(name: str) -> None:
    # A union or a run is one more container than the value it stands for; a dictionary likewise.
    array = ARRAYS[name]
    for start in range(4):
        part = array.slice(start)
        found = row_sizes(pa.record_batch({"a": part}))
        own = np.array([spelled(value) for value in part.to_pylist()])
        assert (found >= own).all()
        assert (found <= 2 * own).all()
        assert np.array_equal(found, row_sizes(pa.record_batch({"a": array}))[start:])


def batch(values: Any, offsets: list[int] | None = None) -> pa.RecordBatch:
    return pa.record_batch({"a": pa.ListArray.from_arrays(offsets or [0, len(values)], values)})


ONE_OF = pa.RunEndEncodedArray.from_arrays(pa.array([LONGEST], pa.int32()), pa.array(["a"]))
VIEWED = pa.ListViewArray.from_arrays(
    pa.array([0] * 100, pa.int32()), pa.array([10_000] * 100, pa.int32()), pa.array(np.zeros(10_000, np.int64))
)
BOMBS: dict[str, tuple[pa.RecordBatch, float]] = {
    "a list of nulls": (batch(pa.nulls(LONGEST)), LONGEST),
    "fixed lists of nulls": (
        pa.record_batch({"a": pa.FixedSizeListArray.from_arrays(pa.nulls(LONGEST), LONGEST)}),
        LONGEST,
    ),
    "structs of nulls": (batch(pa.StructArray.from_arrays([pa.nulls(LONGEST)], ["x"])), LONGEST),
    "a list of one run": (batch(ONE_OF), LONGEST),
    "a list of one run of structs": (batch(pa.StructArray.from_arrays([ONE_OF], ["x"])), LONGEST),
    "a dictionary of one text": (
        batch(pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int8)), pa.array(["x" * 10_000]))),
        1e7,
    ),
    "a dictionary of a list of nulls": (
        pa.record_batch(
            {"a": pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), batch(pa.nulls(LONGEST)).column(0))}
        ),
        LONGEST,
    ),
    "views of one list": (batch(VIEWED), 1e6),
    "a map of nulls": (
        pa.record_batch({"a": pa.MapArray.from_arrays([0, 10_000], pa.array(["k"] * 10_000), pa.nulls(10_000))}),
        1e4,
    ),
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_what_stands_for_gigabytes_is_measured_not_made(name: str) -> None:
    rows, least = BOMBS[name]
    assert float(row_sizes(rows)[0]) >= least * ELEMENT_BYTES


def forged(kind: pa.DataType, length: int, *buffers: bytes | None, children: Any = None) -> pa.RecordBatch:
    made = [None if each is None else pa.py_buffer(each) for each in buffers]
    return pa.record_batch({"a": pa.Array.from_buffers(kind, length, made, children=children)})


INT = [pa.array([1, 2, 3], pa.int64())]
FORGED = {
    "offsets beyond": lambda: forged(pa.list_(pa.int64()), 1, None, np.array([0, 9], np.int32).tobytes(), children=INT),
    "offsets backwards": lambda: forged(
        pa.list_(pa.int64()), 2, None, np.array([3, 0, 3], np.int32).tobytes(), children=INT
    ),
    "negative offsets": lambda: forged(
        pa.list_(pa.int64()), 1, None, np.array([-5, 1], np.int32).tobytes(), children=INT
    ),
    "text backwards": lambda: forged(pa.string(), 2, None, np.array([2, 0, 2], np.int32).tobytes(), b"ab"),
    "an index beyond": lambda: pa.record_batch(
        {"a": pa.DictionaryArray.from_arrays(pa.array([7], pa.int8()), pa.array(["x"]), safe=False)}
    ),
    "a view beyond": lambda: forged(
        pa.list_view(pa.int64()),
        1,
        None,
        np.array([2], np.int32).tobytes(),
        np.array([9], np.int32).tobytes(),
        children=INT,
    ),
    "one text for many views": lambda: forged(
        pa.string_view(), 1_000, None, np.array([100_000, 0, 0, 0] * 1_000, np.int32).tobytes(), b"\0" * 100_000
    ),
}


@pytest.mark.parametrize("name", list(FORGED))
def test_parts_that_do_not_fit_together_are_found(name: str) -> None:
    with pytest.raises((pa.ArrowInvalid, IndexError)):
        row_sizes(FORGED[name]())
