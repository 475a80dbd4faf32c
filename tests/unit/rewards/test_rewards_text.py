import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rewards.text import (
    boxes,
    boxes_of_one_sentence,
    final_boxes,
    last_tagged,
    stated_finally,
    storable,
    strip_nested,
    tail,
    unclosed_box,
    without_thoughts,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no box", []),
        ("\\boxed{5}", ["5"]),
        ("\\fbox{5}", ["5"]),
        ("first \\boxed{1} then the result is \\boxed{2}", ["2"]),
        ("\\boxed{5} or \\boxed{6}", ["5", "6"]),
        ("$\\boxed{1}$, $\\boxed{2}$ and $\\boxed{3}$", ["1", "2", "3"]),
        ("\\boxed{1}\\boxed{2}", ["1", "2"]),
        ("\\boxed{\\boxed{5}}", ["5"]),
        ("\\boxed{\\frac{1}{2}}", ["\\frac{1}{2}"]),
        ("\\boxed{\\{1, 2\\}}", ["\\{1, 2\\}"]),
        ("\\boxed{unclosed \\boxed{7}", ["7"]),
        ("\\boxed{5", []),
        ("} } \\boxed{5}", ["5"]),
        ("\\boxed{}", [""]),
        ("\\boxed{x} = \\boxed{y}", ["y"]),
    ],
)
def test_final_boxes(text: str, expected: list[str]) -> None:
    assert final_boxes(text) == expected


def test_a_million_braces_are_searched_in_linear_time() -> None:
    assert boxes("\\boxed{" * 150_000) == []
    assert final_boxes("{" * 500_000 + "}" * 500_000 + "\\boxed{1}") == ["1"]
    assert len(boxes("\\boxed{1} x " * 100_000)) > 1_000


@given(st.text(alphabet="\\boxedf{} 1,a$"))
def test_boxes_lie_in_the_text_and_do_not_overlap(text: str) -> None:
    end = 0
    for box in boxes(text):
        assert box.start >= end
        assert text[box.start : box.end].endswith(box.content + "}")
        end = box.end
    assert all(isinstance(strip_nested(content), str) for content in final_boxes(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\boxed{25} and then \\boxed{26", "26"),
        ("\\boxed{5", "5"),
        ("\\boxed{5}", None),
        ("\\boxed{unclosed \\boxed{7}", None),
        ("nothing", None),
    ],
)
def test_a_box_that_is_never_closed_is_seen(text: str, expected: str | None) -> None:
    assert unclosed_box(text) == expected


def test_thoughts_are_taken_off() -> None:
    assert without_thoughts("<think>\\boxed{5}</think> so") == " so"
    assert without_thoughts("a</think>b</think>c") == "c"
    assert without_thoughts("so <think>cut") == "so "
    assert without_thoughts("so") == "so"


def test_the_last_tags_and_what_is_stated_finally_are_found() -> None:
    assert last_tagged("<answer>4</answer> or <answer> 5 </answer>.") == ("5", 33)
    assert last_tagged("<answer>4") is None
    assert stated_finally("\\boxed{5}. Final Answer: The final answer is $6$. I hope it is correct.") == "$6$"
    assert stated_finally("\\boxed{8}, and\n# the final answer is constant\nt = 10") is None
    assert stated_finally("The final answer is $5$: \\boxed{6}") is None


def test_one_sentence_may_hold_several_boxes() -> None:
    assert boxes_of_one_sentence("\\boxed{1} for even $n$ and \\boxed{2} for odd") == ["1", "2"]
    assert boxes_of_one_sentence("\\boxed{1} and then \\boxed{2}") == ["2"]
    assert boxes_of_one_sentence("\\boxed{1}, hence the answer is \\boxed{2}") == ["2"]
    assert final_boxes("\\boxed{5} and \\boxed{5}") == ["5"]


def test_the_tail_starts_at_a_line() -> None:
    assert tail("short") == "short"
    assert tail("x" * 5_000 + "\n" + "y" * 1_500) == "y" * 1_500


def test_stored_text_is_valid_and_bounded() -> None:
    assert storable("\ud800" + "a" * 1_000) == "?" + "a" * 499
    assert storable(None) is None
