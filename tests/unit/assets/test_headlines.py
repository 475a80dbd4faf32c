"""What the page of an asset shows of its result: few numbers that can be read, the figure, the rest in one entry."""

import base64
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from assets.experiment.headlines import Headline, headlines_list, rounded, scores_headlines
from assets.experiment.stages import Stage, stages_of
from assets.graph.stage_asset import result_metadata
from assets.graph.step import ALL_NUMBERS, NUMBERS, Finished
from assets.processes.launcher import Ended
from evals.report.history import read_history
from evals.statistics.metrics import summarize
from pipeline.config import Experiment
from pipeline.store import Store, open_store
from tests.unit.evals.test_evals_metrics import make_scores

DIALOG = 640
"""Pixels of the narrowest window that shows a picture whole."""


Metadata = dict[str, Any]


@pytest.fixture(scope="module")
def shown(made: tuple[Store, dict[str, Any]], experiment: Experiment) -> tuple[Store, dict[str, Metadata]]:
    """The store, and the metadata of each asset as its stage's own report gives them."""
    store, reports = made
    stages = {stage.name: stage for stage in stages_of(experiment)}
    found = {name: metadata_of(stages[name], store, experiment, report) for name, report in reports.items()}
    return store, found


def metadata_of(stage: Stage, store: Store, experiment: Experiment, told: dict[str, Any]) -> Metadata:
    report = json.loads(json.dumps(told))  # as it comes from the stage's process
    finished = Finished(report, [stage.command], Ended(0, (), Path("log")), report["seconds"] + 0.15234374999999997)
    return result_metadata(stage, finished, store, experiment, 0)


def plotted(metadata: Metadata) -> dict[str, float]:
    """What Dagster draws a plot of."""
    values = {name: getattr(entry, "value", entry) for name, entry in metadata.items() if "/" not in name}
    return {n: v for n, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def digits_of(value: float) -> int:
    """Significant digits; those of a whole number count as three at most."""
    digits = len(re.sub(r"e.*|\D", "", repr(value)).strip("0"))
    return min(digits, 3) if value == int(value) else digits


def test_about_six_rounded_numbers_are_plotted_and_the_rest_is_one_entry(
    shown: tuple[Store, dict[str, Metadata]], experiment: Experiment
) -> None:
    _, found = shown
    assert set(found) == {stage.name for stage in stages_of(experiment)}
    for name, metadata in found.items():
        numbers = plotted(metadata)
        assert len(numbers) <= 6, name
        assert max(map(digits_of, numbers.values()), default=0) <= 3, name
        told = metadata[ALL_NUMBERS].value
        assert {"rows", "seconds", "overhead_seconds", "skipped"} <= set(told), name
        assert max(digits_of(value) for value in told.values() if isinstance(value, float)) <= 6, name
        if numbers:
            assert next(iter(metadata)) == NUMBERS, name
            assert all(f"** {label.partition(', ')[0]}" in metadata[NUMBERS].value for label in numbers)
            assert len(metadata[NUMBERS].value) < 1000, "Dagster shows longer Markdown behind a button"
    assert {"bytes", "shards", "reward_std"} <= set(found["rewards"][ALL_NUMBERS].value)
    assert "dagster/row_count" in found["rewards"]


def test_the_figure_comes_second(shown: tuple[Store, dict[str, Metadata]]) -> None:
    for asset, figure in (("trained_policy", "curves"), ("benchmark_scores", "accuracy"), ("base_scores", "accuracy")):
        assert list(shown[1][asset])[1] == figure
        png = base64.b64decode(str(shown[1][asset][figure].value).partition("base64,")[2].rstrip(")"))
        pixels = imread(io.BytesIO(png), format="png")
        assert pixels.shape[1] <= DIALOG, "wider than the dialog that shows it"
        assert pixels[0, 0, 3] == 0, "a ground of its own stands out of a dark page"
        ink = pixels[pixels[:, :, 3] > 0.9][:, :3]
        assert len(ink)
        assert float(np.min(ink.max(axis=1))) > 0.2, "black ink is not seen on a dark page"


def test_a_policy_has_one_kl_on_the_page_and_in_the_table(
    shown: tuple[Store, dict[str, Metadata]], experiment: Experiment
) -> None:
    store, found = shown
    (record, _) = read_history(experiment, store)
    named = {name: label for name, labels in found.items() for label in plotted(labels) if "KL" in label}
    assert named == {"ref_logprobs": "KL to the reference, nats a response"}
    assert record.kl is not None
    assert plotted(found["ref_logprobs"])[named["ref_logprobs"]] == rounded(record.kl)
    others = [key for metadata in found.values() for key in metadata[ALL_NUMBERS].value if "kl" in key]
    assert others == ["behaviour_kl"]
    assert record.reward is not None
    assert plotted(found["rewards"])["sampled reward, %"] == rounded(100 * record.reward.value)
    ends = f"{rounded(100 * record.reward.low):g} to {rounded(100 * record.reward.high):g}"
    assert ends in found["rewards"][NUMBERS].value


def test_all_benchmarks_are_shown_and_few_with_more_about_them() -> None:
    scores = make_scores([[1, 0], [1, 1], [0, 0]])
    many = {name: summarize(scores).to_stats(name) for name in "abcdefg"}
    flat = {key: value for stats in many.values() for key, value in stats.items()}
    store = open_store("memory://headlines")
    assert [one.name for one in scores_headlines(flat, store, "x", 0)] == [f"accuracy {name}" for name in many]
    (accuracy, cut, unparsed) = scores_headlines(many["a"], store, "x", 0)
    assert (accuracy.label, cut.name, unparsed.name) == ("accuracy a, %", "cut at the limit a", "without an answer a")
    assert accuracy.value == 50
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert 0 < accuracy.low < 50 < accuracy.high < 100


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.00015234374999999997, 0.000152), (61.234, 61.2), (14_754.0, 14754.0), (0.0, 0.0), (-8389.26, -8389.0)],
)
def test_numbers_keep_three_digits_and_whole_numbers_all(value: float, written: float) -> None:
    assert rounded(value) == written
    assert math.isnan(rounded(math.nan))


def test_a_number_stands_with_its_unit_name_and_interval() -> None:
    numbers = [
        Headline("length", "tokens", 14_754.2),
        Headline("share", "%", 61.18, 59.6, 62.84),
        Headline("β", "", 1.0),
    ]
    assert headlines_list(numbers).splitlines() == [
        "- **14,754 tokens** length",
        "- **61.2 %** share, 59.6 to 62.8",
        "- **1** β",
    ]
