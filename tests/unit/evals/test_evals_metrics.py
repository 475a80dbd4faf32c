"""pass@k against enumeration, majority votes, and the flat numbers of a summary."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.statistics.compare import compare_scores
from evals.statistics.metrics import majority_correct, pass_at_k, summarize
from evals.statistics.scores import Scores, read_entries
from pipeline.errors import StoreError
from pipeline.store import open_store


def make_scores(correct: list[list[float]], extracted: list[list[str | None]] | None = None, **more: Any) -> Scores:
    array = np.array(correct, dtype=np.float64)
    fields: dict[str, Any] = {
        "benchmark": "b",
        "policy_id": "p",
        "protocol": {"samples": array.shape[1], "benchmark": "b"},
        "problem_ids": tuple(f"q{i}" for i in range(len(array))),
        "correct": array,
        "tokens": np.full(array.shape, 7.0),
        "truncated": np.zeros(array.shape, dtype=bool),
        "unparsed": np.zeros(array.shape, dtype=bool),
        "extracted": np.array(extracted or [["x"] * array.shape[1]] * len(array), dtype=object),
        "verifier": "v 1",
        "responses": "d/responses@b-0/generation=0000",
        "flawed": np.zeros(len(array), dtype=bool),
    }
    return Scores(**(fields | more))


@pytest.mark.parametrize("right", range(7))
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_pass_at_k_is_the_mean_over_all_subsets(right: int, k: int) -> None:
    samples = [1] * right + [0] * (6 - right)
    subsets = list(itertools.combinations(samples, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(np.array([right]), 6, k)[0] == pytest.approx(expected)


def test_majority_takes_the_most_frequent_answer() -> None:
    scores = make_scores(
        [[1, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]],
        [["7", "7", "8"], ["3", "3", "4"], ["1", "2", "3"], [None, None, None]],
    )
    assert majority_correct(scores).tolist() == pytest.approx([1.0, 0.0, 1 / 3, 0.0])


def test_answers_of_the_same_value_vote_together() -> None:
    scores = make_scores(
        [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [1, 1, 0, 0, 0]],
        [
            ["12", "12.0", "12", "5", "5"],
            ["5", "5.0", "x = 5", "12", "12"],
            ["2, 1", "1, 2", "3", "4", "9"],
            ["\\frac{1}{2}", "0.5", "7", "8", "9"],
        ],
    )
    assert majority_correct(scores).tolist() == pytest.approx([1.0, 0.0, 0.0, 1.0])


def test_right_answers_vote_together_however_they_are_written() -> None:
    scores = make_scores([[1, 1, 0, 0, 0]], [["2\\sqrt{3}", "\\sqrt{12}", "5", "6", "7"]])
    assert majority_correct(scores).tolist() == [1.0]


def test_equal_texts_of_different_verdicts_count_as_their_mean() -> None:
    for verdicts in ([1, 0, 0], [0, 1, 0], [0, 0, 1]):
        assert majority_correct(make_scores([verdicts], [["5", "5", "5"]])).tolist() == pytest.approx([1 / 3])


def test_unparsed_samples_do_not_vote() -> None:
    scores = make_scores([[1, 0, 0]], [["5", None, None]])
    assert majority_correct(scores).tolist() == [1.0]


def test_summary_has_an_interval_for_every_number() -> None:
    found = summarize(make_scores([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])).to_stats("b")
    assert found["b_accuracy"] == pytest.approx(7 / 12)
    assert found["b_pass_at_4"] == pytest.approx(2 / 3)
    counts = {"b_problems", "b_samples"}
    for name in set(found) - counts:
        if not name.endswith(("_low", "_high")):
            assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]


def test_flawed_problems_are_counted_and_a_second_accuracy_leaves_them_out() -> None:
    found = summarize(make_scores([[1.0], [1.0], [0.0], [0.0]], flawed=np.array([False, False, False, True])))
    assert found.accuracy.value == 0.5
    assert found.sound is not None
    assert found.sound.value == pytest.approx(2 / 3)


def test_greedy_has_no_majority() -> None:
    found = summarize(make_scores([[1.0], [0.0]]))
    assert not found.majority_at
    assert list(found.pass_at) == [1]


def test_scores_that_were_made_differently_are_told_apart() -> None:
    here = make_scores([[1.0], [0.0]], engine="vllm 0.10", template_version="aa")
    there = make_scores([[1.0], [1.0]], engine="vllm 0.11", template_version="bb", verifier="v 2")
    remarks = " / ".join(compare_scores(here, there).remarks)
    assert "graded by v 1 and v 2" in remarks
    assert "answered by vllm 0.10 and vllm 0.11" in remarks
    assert "asked by template version aa and bb" in remarks
    assert not compare_scores(here, here).remarks
    assert not compare_scores(here, make_scores([[1.0], [1.0]])).remarks  # scores from before this was kept


def test_scores_whose_entries_are_damaged_are_named_with_the_field(tmp_path: Path) -> None:
    partition = open_store(str(tmp_path)).partition("exp", "scores", 1)
    with partition.writer("hash", {}) as writer:
        writer.commit(0, {"entries": '[{"name": 3}]'})
    with pytest.raises(StoreError, match=r"generation=0001 is damaged \(entries: name: .*, not 3\)"):
        read_entries(partition)
