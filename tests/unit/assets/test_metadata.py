"""Text that a model wrote, on Dagster's pages."""

import re

from hypothesis import given
from hypothesis import strategies as st

from assets.experiment.pages import _cell, fenced  # pyright: ignore[reportPrivateUsage]

HOSTILE = "<img src=x onerror=alert(1)> [a](javascript:alert(1)) ![b](http://x/y.png) `| **c** |\n| d |"


@given(st.one_of(st.text(), st.just(HOSTILE), st.text(alphabet="`|\n\r\\<>![]()*", max_size=200)))
def test_a_cell_is_one_code_span_of_one_cell(text: str) -> None:
    cell = _cell(text)
    assert cell == "" or re.fullmatch(r"`[^`|\n\r]+`", cell)


@given(st.text(alphabet="`~\na ", max_size=60))
def test_a_fenced_text_cannot_close_its_fence(text: str) -> None:
    inner = fenced(text).removeprefix("```\n").removesuffix("\n```")
    assert "```" not in inner
