"""Charts and tables of the report, from numbers whose picture is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.report.chart import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Chart, Point, Series, draw, nice_ticks, short, thinned
from evals.report.curves import clustered_mean
from evals.report.history import GenerationRecord
from evals.report.leaderboard import COLUMNS
from evals.report.samples import CHARACTERS, evenly, shortened
from evals.report.tables import accuracy_tables, with_interval
from evals.statistics.intervals import Interval

FINITE = st.floats(-1e9, 1e9)


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=20))
def test_every_mark_lies_inside_the_picture(points: list[tuple[float, float]]) -> None:
    found = draw(Chart("t", "u", [Series("s", [Point(x, y) for x, y in points])]))
    for mark in found.lines[0].marks:
        assert LEFT <= mark.x <= WIDTH
        assert TOP - 0.1 <= mark.y <= HEIGHT - BOTTOM + 0.1


@given(FINITE, FINITE)
def test_ticks_enclose_what_they_measure(a: float, b: float) -> None:
    ticks = nice_ticks(min(a, b), max(a, b))
    slack = 1e-6 * max(abs(a), abs(b), 1e-300)
    assert ticks[0] <= min(a, b) + slack
    assert ticks[-1] >= max(a, b) - slack
    assert 2 <= len(ticks) <= 9


def test_what_is_not_finite_is_left_out() -> None:
    points = [Point(0, 1.0), Point(1, math.nan), Point(2, math.inf), Point(3, 2.0, -math.inf, math.inf)]
    marks = draw(Chart("t", "u", [Series("s", points)])).lines[0].marks
    assert [mark.top for mark in marks] == [None, None]
    assert Chart("t", "u", [Series("s", [Point(0, math.nan)])]).is_empty


def test_one_wild_update_does_not_flatten_the_curve() -> None:
    wild = [Point(i / 100, 1e6 if i == 50 else 1.0) for i in range(100)]
    found = draw(Chart("t", "u", [Series("mean", [Point(0, 1.0), Point(1, 2.0)]), Series("updates", wild, faint=True)]))
    assert abs(found.lines[1].marks[0].y - found.lines[1].marks[1].y) > 50
    assert [line.colour for line in found.lines] == [0, 0]


def test_long_runs_stay_small() -> None:
    found = thinned([Point(float(i), 2.0) for i in range(10_000)])
    assert len(found) <= 300
    assert {p.y for p in found} == {2.0}
    assert thinned([]) == []


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (123456, "1.23e5"), (0.00002, "2e-5"), (1234.5, "1,234"), (3.6, "3.6")]
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_our_rows_stand_above_the_papers() -> None:
    accuracy = {name: Interval(0.5, 0.4, 0.6) for name in COLUMNS} | {"gym_quantum_lock": Interval(0.3, 0.2, 0.4)}
    six, gym = accuracy_tables([GenerationRecord(0, accuracy=accuracy)])
    assert list(six.header) == ["policy", *COLUMNS]
    assert list(six.rows[0]) == ["policy[0]", *["50.0 [40.0, 60.0]"] * 6]
    assert six.rows[1][0] == "paper: Qwen2.5-Math-1.5B"
    assert six.rows[5][1:] == ["14.3", "6.9", "52.0", "72.2", "30.5", "36.1"]
    assert six.set_apart == 12
    assert [row[1] for row in gym.rows] == ["30.0 [20.0, 40.0]", "5.5", "30.5", "27.0"]


def test_other_benchmarks_have_a_table_of_their_own() -> None:
    (table,) = accuracy_tables([GenerationRecord(1, accuracy={"heldout": Interval(1.0, 0.9, 1.0)})])
    assert table.set_apart == 0
    assert table.rows == [["policy[1]", "100.0 [90.0, 100.0]"]]


def test_responses_to_one_prompt_count_once() -> None:
    many = clustered_mean(["a"] * 50 + ["b"] * 50, [1.0] * 50 + [3.0] * 50)
    assert many.value == 2.0
    assert many.low < 0
    assert math.isinf(clustered_mean(["a"], [1.0]).low)
    assert "no interval" in with_interval(clustered_mean(["a"], [1.0]), "{:.1f}")


def test_selection_is_by_rule() -> None:
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly([2, 5], 4) == [2, 5]
    long = shortened("a" * CHARACTERS + "bb" + "c" * CHARACTERS)
    assert long.startswith("aaa")
    assert long.endswith("ccc")
    assert f"{CHARACTERS + 2:,} characters left out" in long
    assert np.all([len(long) < CHARACTERS + 60])
