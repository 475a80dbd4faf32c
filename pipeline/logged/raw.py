"""One row of a log as it stands in its file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a log. Exactly one of `data` and `problem` is set."""

    file: str
    row: int
    """1-based; the line number in JSONL and CSV files."""
    data: Mapping[str, Any] | None
    problem: str | None
    digest: int
    """Hash of the row as it stands in the log; equal rows have equal digests."""
    size: int
    """Bytes that were read for it; in columnar files those of its values, spelled out."""
    text_cells: bool = False
    """Every value is text, as CSV has it: numbers and lists are parsed where a field needs them."""


def too_large(file: str, row: int, size: float, limit: int, read: int) -> RawRow:
    """A row of `size` bytes that is not looked at, though `read` bytes of it were read to get past it.

    It takes no part in the comparison of rows: its digest is its place.
    """
    problem = f"the row has {size / 2**20:.1f} MiB, more than --max-row-mb {limit / 2**20:g}"
    return RawRow(file, row, None, problem, row, read)
