"""What a stage says while it works."""

import io

import pytest
from rich.console import Console

from pipeline.run import progress
from pipeline.run.progress import Bar, Progress, duration


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    found = list[Progress]()
    monkeypatch.setattr(progress, "_sink", found.append)
    monkeypatch.setattr(progress, "_every_s", 0.0)
    return found


def test_every_message_says_how_far_and_how_fast_and_the_end_is_said_once(said: list[Progress]):
    with progress.track("rollouts[3]", 30, "trajectories") as task:
        for _ in range(3):
            task.advance(10)
    assert [(one.done, one.total) for one in said] == [(10, 30), (20, 30), (30, 30)]
    lines = [str(one) for one in said]
    assert lines[0].startswith("rollouts[3]: 10/30 trajectories, ")
    assert ["left" in line for line in lines] == [True, True, False]
    assert all("trajectories/s" in line for line in lines)


def test_an_interrupted_stage_says_where_it_stopped(said: list[Progress]):
    def interrupted() -> None:
        with progress.track("rewards[0]", 4, "responses") as task:
            task.advance(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert str(said[-1]).startswith("rewards[0]: 1/4 responses")


def test_work_of_unknown_length_is_counted(said: list[Progress]):
    with progress.track("import", 0, "rows") as task:
        task.advance(5)
    assert str(said[-1]).startswith("import: 5 rows")


def test_a_long_wait_is_said_in_hours():
    assert str(Progress("train[0]", 10, 1_000, "updates", 515.8, "loss=0.2")) == (
        "train[0]: 10/1000 updates, 0.0194 updates/s, 14 h 11 min left loss=0.2"
    )
    times = {0: "0 s", 59.6: "60 s", 120: "2 min", 3_599: "1 h", 51_060: "14 h 11 min", 200_000: "2 d 8 h"}
    assert {seconds: duration(seconds) for seconds in times} == times


def test_the_bar_shows_what_it_is_told_as_plain_text():
    output = io.StringIO()
    with Bar(Console(file=output, force_terminal=True, width=120)) as bar:
        bar.start("trained_policy")
        bar.show(Progress("train[bold]", 3, 4, "updates", 6.0, "loss=\x1b[2J"))
    text = output.getvalue()
    assert "train[bold]" in text
    assert "3/4 updates, 0.5 updates/s, 2 s left loss=\\x1b[2J" in text
