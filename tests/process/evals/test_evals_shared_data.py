"""The whole harness on the six benchmarks and on logged rollouts whose labels are known."""

from pathlib import Path

import pytest

from benchmarks.harness_truth import benchmark_rows, logged_rows
from evals.benchmarks.registry import list_benchmarks
from evals.run.plan import setting_without_experiment
from pipeline.config.evaluation import SIX_BENCHMARKS
from pipeline.store import Store

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no {DATA}: public math data for tests")


def test_gold_answers_are_right_shuffled_and_empty_ones_wrong(store: Store) -> None:
    rows = benchmark_rows(store, setting_without_experiment(), DATA / "benchmarks", 60)
    assert [row["problems"] for row in rows] == [30, 30, 40, 60, 60, 60]
    for row in rows:
        assert (row["gold"], row["gold_unparsed"]) == (1, 0), row
        assert float(str(row["shuffled"])) <= 1 / 60, row  # two problems of MATH500 side by side have equal answers
        assert (row["empty"], row["empty_unparsed"]) == (0, 1), row


def test_flawed_problems() -> None:
    flawed = {one.benchmark.name: len(one.flawed) for one in list_benchmarks(str(DATA / "benchmarks"))}
    none = dict.fromkeys(SIX_BENCHMARKS, 0)
    assert {name: flawed[name] for name in SIX_BENCHMARKS} == none | {"olympiadbench": 14}


def test_logged_labels_are_reproduced(store: Store) -> None:
    path = DATA / "logged" / "qwen25math1p5b_grpo_rollouts.jsonl"
    rows = {row["verifier"]: row for row in logged_rows(store, setting_without_experiment(), path)}
    assert rows["math_verify"]["agree"] == 1_596
    assert rows["r1_format"]["agree"] == 1_574
