"""What a stage says while it works, where there is no terminal."""

import pytest

from pipeline.run import progress


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said = list[str]()
    monkeypatch.setattr(progress, "_sink", said.append)
    monkeypatch.setattr(progress, "_line_every_s", 0.0)
    return said


def test_every_line_says_how_far_and_how_fast_and_the_end_is_said_once(lines: list[str]):
    with progress.track("rollouts[3]", 30, "trajectories") as task:
        for _ in range(3):
            task.advance(10)
    assert [line.split(" trajectories,")[0] for line in lines] == [f"rollouts[3]: {n}/30" for n in (10, 20, 30)]
    assert ["left" in line for line in lines] == [True, True, False]
    assert all("trajectories/s" in line for line in lines)


def test_an_interrupted_stage_says_where_it_stopped(lines: list[str]):
    def interrupted() -> None:
        with progress.track("rewards[0]", 4, "responses") as task:
            task.advance(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert lines[-1].startswith("rewards[0]: 1/4 responses")


def test_work_of_unknown_length_is_counted(lines: list[str]):
    with progress.track("import", 0, "rows") as task:
        task.advance(5)
    assert lines[-1].startswith("import: 5 rows")
