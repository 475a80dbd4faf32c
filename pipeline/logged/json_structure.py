"""The outer structure of a JSON text of any length: where its first levels open, part and close.

Nothing is parsed and nothing but the piece between two marks is held, so that one element after the other can be cut
out of an array of gigabytes. What stands between the marks may still be no JSON: whoever parses it finds out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_PIECE = 2**20
_QUOTE, _OPENING, _CLOSING = ord('"'), b"[{", b"]}"
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SHALLOW = re.compile(rb'[^"\[\]{},]*+')
_DEEP = re.compile(rb'[^"\[\]{}]*+')


@dataclass(frozen=True, slots=True)
class Mark:
    """One of `[ { , ] }`, or the end of the text (`sign` empty)."""

    sign: str
    inside: int
    """Containers that are open where the text before it stands."""
    before: bytes
    """What stands between the mark before and this one: its beginning, of at most `keep` bytes."""
    size: int
    """Length of all of that."""


def marks(file: BinaryIO, levels: int, keep: int) -> Iterator[Mark]:
    """Marks of the outermost `levels` containers; those of containers inside them belong to what stands between.

    Linear in the length of `file`; `keep` bytes and one piece of the file are held.
    """
    inside = size = 0
    in_string = escaped = False
    before = bytearray()
    while piece := file.read(_PIECE):
        at = begin = 0
        while at < len(piece):
            if escaped:  # the piece before ended in a backslash
                at, escaped = at + 1, False
                continue
            at = _end(_IN_STRING if in_string else _SHALLOW if inside <= levels else _DEEP, piece, at)
            if at == len(piece):
                break
            sign, at = piece[at], at + 1
            if in_string:  # it stopped at the closing quote, or at a backslash that ends the piece
                in_string = escaped = sign != _QUOTE
            elif sign == _QUOTE:
                in_string = True
            else:
                opens, closes = sign in _OPENING, sign in _CLOSING
                if inside + opens <= levels:
                    before += piece[begin : begin + min(at - 1 - begin, keep - len(before))]
                    yield Mark(chr(sign), inside, bytes(before), size + at - 1 - begin)
                    before, size, begin = bytearray(), 0, at
                inside += opens - closes
        before += piece[begin : begin + keep - len(before)]
        size += len(piece) - begin
    yield Mark("", inside, bytes(before), size)


def _end(pattern: re.Pattern[bytes], piece: bytes, at: int) -> int:
    found = pattern.match(piece, at)
    assert found is not None  # every pattern matches the empty text
    return found.end()
