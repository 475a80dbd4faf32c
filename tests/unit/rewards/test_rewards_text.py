import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rewards.text import boxes, final_boxes, hedged, storable, strip_nested, tail


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
    "content",
    [
        "1, 2",
        "1; 2",
        "30 \\text{ minutes}, 80 \\text{ minutes}",
        "30 \\text{ or 31}",
        "30 \\text{ cm} 31 \\text{ cm}",
        "30 \\text{ cm and } 31",
    ],
)
def test_several_values_in_a_box_are_seen(content: str) -> None:
    assert hedged(content)


@pytest.mark.parametrize(
    "content",
    [
        "5",
        "1,234",
        "12,345,678.5",
        "10,\\!080",
        "1{,}234",
        "5 \\text{ m/s}^2",
        "\\text{30}",
        "f(1, 2)",
        "\\binom{5}{2}",
    ],
)
def test_one_value_is_one_value(content: str) -> None:
    assert not hedged(content)


def test_the_tail_starts_at_a_line() -> None:
    assert tail("short") == "short"
    assert tail("x" * 5_000 + "\n" + "y" * 1_500) == "y" * 1_500


def test_stored_text_is_valid_and_bounded() -> None:
    assert storable("\ud800" + "a" * 1_000) == "?" + "a" * 499
    assert storable(None) is None
