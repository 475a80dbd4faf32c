from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.rewards import RewardComponents, RewardsConfig
from pipeline.errors import TbrmError
from pipeline.rewards.grader import Grader, length_part
from pipeline.rewards.types import MOST_NESTED, GradeItem, _extra, nested_deeper  # pyright: ignore[reportPrivateUsage]


def fractions(count: int) -> list[GradeItem]:
    return [GradeItem(f"\\boxed{{\\frac{{{i}}}{{7}}}}", f"{i + i % 2}/7") for i in range(count)]


def test_order_is_kept_over_workers_batches_and_shortcuts() -> None:
    items = [
        item
        for pair in zip(fractions(90), [GradeItem("5", str(i % 7)) for i in range(90)], strict=True)
        for item in pair
    ]
    with Grader(RewardsConfig(workers=2, batch=7)) as grader:
        labels = list(grader.grade(items))
    assert [label.reward for label in labels[::2]] == [float(i % 2 == 0) for i in range(90)]
    assert [label.reward for label in labels[1::2]] == [float(i % 7 == 5) for i in range(90)]


def test_equal_answers_are_graded_once_across_calls() -> None:
    items = [GradeItem(f"{i} thoughts, then \\boxed{{\\frac{{{i % 3}}}{{7}}}}", "2/7") for i in range(60)]
    with Grader(RewardsConfig(workers=1, batch=8)) as grader:
        first = list(grader.grade(items))
        assert grader.graded == 3
        assert list(grader.grade(items)) == first
        assert grader.graded == 3
    with Grader(RewardsConfig(workers=1), memoize=False) as grader:
        assert list(grader.grade(items)) == first
        assert grader.graded == 60


def test_input_is_read_ahead_by_a_bounded_number() -> None:
    read = 0

    def endless() -> Iterator[GradeItem]:
        nonlocal read
        while True:
            read += 1
            yield GradeItem(f"\\boxed{{\\frac{{{read}}}{{7}}}}", "1")

    with Grader(RewardsConfig(workers=1, batch=4)) as grader:
        labels = grader.grade(endless())
        for _ in range(100):
            next(labels)
        assert read <= 100 + 4 * 4 + 1


def test_no_worker_is_started_for_integers() -> None:
    with Grader(RewardsConfig(workers=1)) as grader:
        assert sum(label.reward for label in grader.grade(GradeItem(str(i), "7") for i in range(1_024))) == 1.0
        assert grader.graded == 0


def test_the_reward_is_the_weighted_sum_and_its_parts_are_kept() -> None:
    weights = RewardComponents(correctness=1.0, format=0.1, length=0.5, length_free_tokens=100, length_max_tokens=200)
    with Grader(RewardsConfig(components=weights)) as grader:
        boxed, bare = grader.grade([GradeItem("\\boxed{5}", "5", tokens=150), GradeItem("5", "5", tokens=900)])
    assert boxed.reward == pytest.approx(1.0 + 0.1 - 0.25)
    assert boxed.components == {"correctness": 1.0, "format": 1.0, "length": -0.5}
    assert bare.reward == pytest.approx(1.0 - 0.5)
    assert bare.components == {"correctness": 1.0, "format": 0.0, "length": -1.0}


def test_length_part_is_zero_when_short_or_unknown() -> None:
    weights = RewardComponents()
    assert [length_part(tokens, weights) for tokens in (None, 0, 1_536, 1_792, 2_048, 9_999)] == [0, 0, 0, -0.5, -1, -1]


def test_a_response_without_a_verdict_gets_the_configured_reward() -> None:
    with Grader(RewardsConfig(timeout_reward=-0.25, verifier="exact_integer")) as grader:
        label = next(grader.grade([GradeItem("\\boxed{5}", "not a number")]))
    assert (label.reward, label.status, label.components) == (-0.25, "error", {})


def test_code_that_only_the_data_name_is_not_run() -> None:
    with Grader(RewardsConfig()) as grader, pytest.raises(TbrmError, match="name it in rewards"):
        list(grader.grade([GradeItem("5", "5", verifier="os:system")]))


@pytest.mark.parametrize(
    "bad",
    [
        {"verifier": "vibes"},
        {"verifier": "os.system"},
        {"user_verifiers": ["math_verify"]},
        {"cpu_s": 0},
        {"batch": 0},
        {"components": {"length_free_tokens": 10, "length_max_tokens": 10}},
        {"timeout": 3},
    ],
)
def test_impossible_configurations_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RewardsConfig.model_validate(bad)


def test_what_cannot_change_a_label_is_not_in_the_stage_hash() -> None:
    base = RewardsConfig()
    assert base.deciding() == RewardsConfig(workers=7, batch=3, max_undecided_share=0.5, audit_sample=1).deciding()
    assert base.deciding() != RewardsConfig(cpu_s=1.0).deciding()


@pytest.mark.parametrize("levels", [100, 101, 900, 5_000])
@pytest.mark.parametrize("memoize", [True, False])
def test_a_row_nested_too_deep_costs_itself_only(levels: int, memoize: bool) -> None:
    """No process that reads it by recursion gets it: each gives up at another depth."""
    deep: Any = 1
    for level in range(levels - 1):
        deep = {"a": deep} if level % 2 else [deep]
    items = [
        GradeItem(f"\\boxed{{\\frac{{1}}{{{n}}}}}", f"2/{2 * n}", None, {"a": deep} if n == 3 else {})
        for n in (2, 3, 5)
    ]
    with Grader(RewardsConfig(workers=1), memoize=memoize) as grader:
        labels = list(grader.grade(items))
    assert [label.status for label in labels] == ["ok", "ok" if levels == 100 else "error", "ok"]
    assert [label.reward for label in labels] == [1.0, 1.0 if levels == 100 else 0.0, 1.0]


def test_an_extra_too_deep_to_be_read_is_one_that_is_nested_too_deep() -> None:
    text = '{"a":' * 5_000 + "1" + "}" * 5_000
    assert nested_deeper(_extra({"extra": text}, "here"), MOST_NESTED)
    with pytest.raises(TbrmError, match="here: field `extra` is not JSON"):
        _extra({"extra": '{"a": ' + "9" * 5_000 + "}"}, "here")
