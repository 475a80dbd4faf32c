"""Bytes and trees that are nearly right: what breaks a reader that random bytes never get into."""

import copy
from typing import Any

from hypothesis import strategies as st

from tests.support.damage import places

POISON = [
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\x1b[2J", b"\r", b"\n", b'"', b"'", b"{", b"}", b"[", b"]"),
    *(
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-0",
        b"9" * 400,
        b"null",
        b"true",
        b"!!python/object/apply:os.system",
        b"&a ",
        b"*a",
    ),
    *(b"[" * 3_000, b'{"a":' * 1_500, b"- " * 500, b"../../etc/passwd", b"<script>", b"%s", b"{0}", b"$(id)"),
]


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with one to four places replaced, inserted, cut, doubled or torn off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 24)))
        match draw(st.sampled_from(["replace", "insert", "cut", "double", "tear"])):
            case "replace":
                data[at:to] = draw(st.sampled_from(POISON) | st.binary(max_size=8))
            case "insert":
                data[at:at] = draw(st.sampled_from(POISON) | st.binary(max_size=8))
            case "cut":
                del data[at:to]
            case "double":
                data[at:at] = data[at:to]
            case _:
                del data[at:]
    return bytes(data)


SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(
        ["", "\x00", "../x", "/etc/passwd", "\x1b]0;x\x07", "\ud800", "<img src=x onerror=alert(1)>", "1" * 5_000]
    ),
    st.sampled_from([-1, 2**31, 2**63, 10**40, 1e308, float("nan"), float("inf")]),
)
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""Any value that JSON or YAML can hold, and some that they should not."""


@st.composite
def tree_with_damage(draw: st.DrawFn, tree: dict[str, Any]) -> dict[str, Any]:
    """`tree` with one to three of its values, at any depth, replaced, dropped, or joined by an unknown key."""
    changed: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in tree.items()}
    for _ in range(draw(st.integers(1, 3))):
        part = changed
        key = draw(st.sampled_from(sorted(part)))
        if isinstance(part[key], dict) and part[key] and draw(st.booleans()):
            part = part[key]
            key = draw(st.sampled_from(sorted(part)))
        match draw(st.sampled_from(["replace", "replace", "drop", "add"])):
            case "replace":
                part[key] = draw(TREES)
            case "drop":
                del part[key]
            case _:
                part[draw(st.text(max_size=10))] = draw(TREES)
        if not changed:
            break
    return changed


@st.composite
def damaged_anywhere(draw: st.DrawFn, tree: dict[str, Any]) -> dict[str, Any]:
    """`tree` with one to three of its values, however deep, replaced, dropped, put into a list, repeated or moved."""
    found = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        there = list(places(found))
        if not there:
            break
        holder, key = there[draw(st.integers(0, len(there) - 1))]
        value = holder[key]
        match draw(st.sampled_from(["replace", "replace", "drop", "wrap", "repeat", "move"])):
            case "replace":
                holder[key] = draw(TREES)
            case "drop":
                del holder[key]
            case "wrap":
                holder[key] = [value]
            case "repeat":
                holder[key] = value * draw(st.integers(0, 3)) if isinstance(value, list | str) else [value, value]
            case _:
                other, place = there[draw(st.integers(0, len(there) - 1))]
                holder[key] = copy.deepcopy(other[place])
    return found
