"""JSON is read as Python's own parser reads it, but for long lists of numbers, which are arrays."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.logged.json_values import FEWEST, parse
from pipeline.logged.raw import PER_TOKEN

NUMBERS = st.lists(st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False), max_size=40)
WORDS = st.text(st.sampled_from('ab[{,\\"\u00e9\ud800\0'), max_size=6)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | NUMBERS,
    lambda inside: st.lists(inside, max_size=5) | st.dictionaries(WORDS, inside, max_size=5),
    max_leaves=12,
)


def plain(tree: Any) -> Any:
    if isinstance(tree, np.ndarray):
        assert len(tree) >= FEWEST
        return tree.tolist()
    if isinstance(tree, dict):
        return {name: plain(each) for name, each in tree.items()}
    return [plain(each) for each in tree] if isinstance(tree, list) else tree


@given(TREES)
def test_any_tree(tree: Any) -> None:
    for text in (json.dumps(tree), json.dumps({"tokens": tree})):
        assert repr(plain(parse(text.encode()))) == repr(_floats_where_mixed(json.loads(text), False))


def _floats_where_mixed(tree: Any, per_token: bool) -> Any:
    """A long list of numbers that are not all whole is an array of floats, in fields with a number for each token."""
    if isinstance(tree, dict):
        return {name: _floats_where_mixed(each, name in PER_TOKEN) for name, each in tree.items()}
    if not isinstance(tree, list):
        return tree
    kinds = set(map(type, tree))
    fits = all(-(2**63) <= each < 2**64 for each in tree if type(each) is int)
    if per_token and len(tree) >= FEWEST and kinds <= {int, float} and fits and not _all_in_64_bits(tree):
        return [float(each) for each in tree]
    return [_floats_where_mixed(each, per_token) for each in tree]


def _all_in_64_bits(numbers: list[Any]) -> bool:
    return all(type(each) is int and each < 2**63 for each in numbers)


@pytest.mark.parametrize(
    "tree",
    [
        [1, [2] * FEWEST, []],
        [1, *[[2]] * FEWEST],
        [[1] * FEWEST, "[", [[]]],
        {"a": {str(n): [n] * FEWEST for n in range(300)}},
        {"[": {"tokens": [1] * FEWEST}},
    ],
)
def test_lists_within_lists_are_not_flattened(tree: Any) -> None:
    assert plain(parse(json.dumps({"tokens": tree}).encode())) == {"tokens": tree}


def test_whole_numbers_stay_whole_and_others_are_exact() -> None:
    row = {"tokens": list(range(FEWEST)), "logprobs": [-0.1, -1e-9] * FEWEST, "other": [1] * FEWEST}
    tokens, logprobs, other = parse(json.dumps(row).encode()).values()
    assert isinstance(other, list)
    assert (tokens.dtype, logprobs.dtype) == (np.int64, np.float64)
    assert logprobs.tolist() == [-0.1, -1e-9] * FEWEST


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": 1} {', b"[1, 2", b"\xff", b'{"a": 1, "a": 2}', b"[NaN, Infinity]"])
def test_what_is_refused_or_odd_is_as_pythons_parser_has_it(text: bytes) -> None:
    def outcome(read: Any) -> str:
        try:
            return repr(read())
        except ValueError as error:
            return repr(error)

    assert outcome(lambda: parse(text)) == outcome(lambda: json.loads(text.decode()))
