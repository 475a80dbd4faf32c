"""Rows of JSON lines, JSON and CSV files. No more than one row of the permitted size is ever held.

Of a JSON text only the outer structure is looked at: the marks where its first levels open, part and close. So one
element after the other is cut out of an array of gigabytes. What stands between two marks may still be no JSON: whoever
parses it finds out.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Literal

import xxhash

from pipeline.errors import TbrmError
from pipeline.logged.json_values import parse
from pipeline.logged.raw import RawRow, too_large

_PIECE = 2**20
_KEY_BYTES = 64
_OPENING, _CLOSING = ("[", "{"), ("]", "}")
Open = Callable[[], AbstractContextManager[BinaryIO]]
"""Opens the file at its beginning."""
_QUOTE, _OPENS, _CLOSES = ord('"'), b"[{", b"]}"
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
                opens, closes = sign in _OPENS, sign in _CLOSES
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


def json_lines_rows(path: str, opened: Open, limit: int, before: int = 0) -> Iterator[RawRow]:
    """`before` lines stand before these in the file."""
    with opened() as file:
        number = before
        while line := file.readline(limit + 1):
            number += 1
            if len(line) > limit:
                size = len(line)
                while not line.endswith(b"\n") and (line := file.readline(_PIECE)):
                    size += len(line)
                yield too_large(path, number, size, limit, size)
            elif line.strip():
                yield _parsed(path, number, line)


def _parsed(path: str, number: int, text: bytes) -> RawRow:
    digest, size = xxhash.xxh3_64_intdigest(text.strip()), len(text)
    try:
        data = parse(text)
    except UnicodeDecodeError as error:
        return RawRow(path, number, None, f"not UTF-8 at byte {error.start} of the row", digest, size)
    except (ValueError, RecursionError) as error:  # ValueError: also integers of thousands of digits
        return RawRow(path, number, None, f"not JSON: {error}", digest, size)
    if not isinstance(data, dict):
        return RawRow(path, number, None, f"a JSON {type(data).__name__}, not an object", digest, size)
    return RawRow(path, number, data, None, digest, size)


def json_rows(path: str, opened: Open, limit: int) -> Iterator[RawRow]:
    """A JSON array of objects, an object that holds one array of them, or (as some tools name it) JSON lines.

    Raises TbrmError for a text that is none of these.
    """
    with opened() as file:
        first = next(marks(file, 1, limit))
    if first.sign == "[" and not first.before.strip():
        yield from _array_rows(path, opened, 1, limit)
        return
    if first.sign != "{" or first.before.strip():
        raise TbrmError(f"{path} is not JSON: it begins with neither {{ nor [")
    match _object_kind(opened):
        case "array inside":
            yield from _array_rows(path, opened, 2, limit)
        case "one object":
            with opened() as file:
                text = file.read(limit + 1)
            yield _parsed(path, 1, text) if len(text) <= limit else too_large(path, 1, len(text), limit, len(text))
        case "lines":
            yield from json_lines_rows(path, opened, limit)


def _object_kind(opened: Open) -> Literal["one object", "array inside", "lines"]:
    """What a text that begins with `{` is. `array inside`: one of its values is an array, and that holds only objects.

    A first value that does not end makes it `lines`: their reader says which line is wrong.
    """
    arrays = 0
    objects_only, in_array = True, False
    with opened() as file:
        found = marks(file, 2, _KEY_BYTES)
        for mark in found:
            if mark.inside == 1 and mark.sign in _OPENING:
                in_array = mark.sign == "["
                arrays += in_array
            elif mark.inside == 1 and mark.sign in _CLOSING:
                break
            elif mark.inside == 2 and in_array:
                element = mark.before.strip()
                objects_only = (objects_only and element[:1] == b"{") or (mark.sign == "]" and not element)
        rest = next(found, None)
    if rest is None or rest.sign or rest.before.strip():
        return "lines"
    return "array inside" if arrays == 1 and objects_only else "one object"


def _array_rows(path: str, opened: Open, depth: int, limit: int) -> Iterator[RawRow]:
    """Elements of the array that lies inside `depth - 1` containers. Raises TbrmError when the text is cut off."""
    number = 0
    in_array = False
    end: Mark | None = None
    with opened() as file:
        for mark in marks(file, depth, limit + 1):
            if mark.inside == depth - 1 and mark.sign in _OPENING:
                in_array = mark.sign == "["
            elif mark.inside == depth and in_array and mark.sign:
                if mark.sign == "," or number or mark.before.strip():
                    number += 1
                    yield (
                        _parsed(path, number, mark.before)
                        if mark.size <= limit
                        else too_large(path, number, mark.size, limit, mark.size)
                    )
                in_array = mark.sign == ","
            end = mark
    if end is None or end.inside or end.before.strip():
        raise TbrmError(f"{path} is cut off or damaged after row {number}: fetch it again, or leave it out")


def csv_rows(path: str, opened: Open, limit: int, delimiter: str) -> Iterator[RawRow]:
    """Raises TbrmError when there is no header."""
    with opened() as file:
        lines = _CsvLines(io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=""), limit)
        csv.field_size_limit(limit)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(reader, None)
        except csv.Error as error:
            raise TbrmError(f"{path} line 1: the header is not CSV: {error}") from error
        except _TooLong as error:
            raise TbrmError(f"{path} line 1: the header is longer than --max-row-mb {limit / 2**20:g}") from error
        if not header:
            raise TbrmError(f"{path} is empty: a CSV file needs a header with the names of its fields")
        if repeated := [name for name, times in Counter(header).items() if name and times > 1]:
            raise TbrmError(f"{path} line 1: {repeated[0][:100]!r} is the name of more than one field; rename one")
        while True:
            begun = lines.number + 1
            lines.taken = lines.quotes = 0
            try:
                cells = next(reader)
            except StopIteration:
                return
            except _TooLong:
                yield too_large(path, begun, lines.taken, limit, lines.taken)
                continue
            except csv.Error as error:
                yield RawRow(path, lines.number, None, f"not CSV: {error}", lines.number, lines.taken)
                continue
            if cells:
                yield _from_cells(path, lines.number, header, cells, lines.taken)


def _from_cells(path: str, number: int, header: list[str], cells: list[str], size: int) -> RawRow:
    try:
        digest = xxhash.xxh3_64_intdigest("\x1f".join(cells).encode("utf-8"))
    except UnicodeEncodeError:
        return RawRow(path, number, None, "not UTF-8", number, size)
    if len(cells) != len(header):
        problem = f"{len(cells)} cells where the header has {len(header)}"
        return RawRow(path, number, None, problem, digest, size)
    return RawRow(path, number, dict(zip(header, cells, strict=True)), None, digest, size, text_cells=True)


class _TooLong(Exception):
    """A row of more characters than are permitted."""


class _CsvLines:
    """Lines for `csv.reader`. Counts `taken` characters and `quotes` since they were last set to 0: those of one row.

    Raises _TooLong at the end of a row that is too long: of the first line after which no quote is open.
    """

    def __init__(self, file: io.TextIOWrapper, limit: int) -> None:
        self._file, self._limit = file, limit
        self.number = self.taken = self.quotes = 0

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        line = self._taken(self._limit + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if self.taken <= self._limit:
            return line
        while line and (self.quotes % 2 or not line.endswith(("\n", "\r"))):
            line = self._taken(_PIECE)
            self.number += line.endswith(("\n", "\r"))
        raise _TooLong

    def _taken(self, most: int) -> str:
        line = self._file.readline(most)
        self.taken += len(line)
        self.quotes += line.count('"')
        return line
