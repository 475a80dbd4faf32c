"""Arrays cut into elements without parsing: those that a parser finds, however the file is cut into pieces."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TbrmError
from pipeline.logged import text_rows
from pipeline.logged.raw import RawRow
from pipeline.logged.rows import read_rows
from pipeline.logged.sources import local_file

TEXT = st.text(alphabet='ab"\\[]{},:é\n', max_size=6)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(VALUES, max_size=5), st.integers(1, 9), st.booleans())
def test_elements_are_those_that_a_parser_finds(rows: list[Any], piece: int, ascii_only: bool) -> None:
    text = json.dumps(rows, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_rows, "_PIECE", piece)
        found = list(text_rows.marks(io.BytesIO(text), 1, 10**6))
    assert [found[0].sign, found[-1].sign, found[-1].inside] == ["[", "", 0]
    elements = [mark for mark in found[1:-1] if rows]
    assert [json.loads(mark.before) for mark in elements] == rows
    assert all(len(mark.before) == mark.size for mark in found)


def rows_of(folder: Path, text: str, limit: int = 2**20) -> list[RawRow]:
    (folder / "log.json").write_text(text)
    return list(read_rows([local_file(folder / "log.json")], limit))


ROW = {"prompt": "a", "n": {"b": [1, [2]]}}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (json.dumps([ROW, ROW], indent=2), [ROW, ROW]),
        (json.dumps({"version": [1], "meta": {"rows": [ROW]}}), [{"version": [1], "meta": {"rows": [ROW]}}]),
        (json.dumps({"version": 1, "meta": {"a": [1, 2]}, "rows": [ROW, ROW]}), [ROW, ROW]),
        (json.dumps({"rows": [ROW], "more": [ROW]}), [{"rows": [ROW], "more": [ROW]}]),
        (json.dumps({"rows": [ROW, 1]}), [{"rows": [ROW, 1]}]),
        (json.dumps(ROW, indent=2), [ROW]),
        (f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n", [ROW, ROW]),
        ("[]", []),
        ('{"rows": []}', []),
        (" [ ] ", []),
    ],
)
def test_the_layouts_of_a_json_file(tmp_path: Path, text: str, rows: list[Any]) -> None:
    assert [row.data for row in rows_of(tmp_path, text)] == rows


def test_an_element_that_is_no_json_or_too_large_is_a_bad_row_among_good_ones(tmp_path: Path) -> None:
    large = json.dumps({"prompt": "x" * 5_000})
    found = rows_of(tmp_path, f"[{json.dumps(ROW)}, {{bad}}, {large}, 7, , {json.dumps(ROW)}]", limit=1_000)
    assert [row.row for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row.data for row in found] == [ROW, None, None, None, None, ROW]
    reasons = [row.problem or "" for row in found]
    assert "not JSON" in reasons[1]
    assert "--max-row-mb" in reasons[2]
    assert "not an object" in reasons[3]
    assert "not JSON" in reasons[4]


@pytest.mark.parametrize("text", ["", "7", '"[1]"', "[1, 2", '[{"a": 1}] 7'])
def test_what_is_no_json_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TbrmError, match=r"log\.json"):
        rows_of(tmp_path, text)


def test_an_object_that_does_not_end_is_a_bad_row(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, '{"rows": [{"a": 1}')
    assert "not JSON" in (row.problem or "")
