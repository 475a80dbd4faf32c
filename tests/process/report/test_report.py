"""The report of a store that the real stages filled: complete, self-contained, inert."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from evals.patterns.rates import pattern_groups
from evals.report.page import render, write_report
from evals.report.summary import PICTURE, summarize
from pipeline.cli.main import tbrm
from pipeline.config import Experiment, build_experiment
from pipeline.errors import StoreError, TbrmError
from pipeline.store import Store, open_store
from tests.support.report_store import SCRIPT, TREE

pytestmark = pytest.mark.xdist_group("report")


class Tags(HTMLParser):
    """Names of the elements of a page, and the values of attributes that make a browser fetch something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.fetched: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.fetched += [
            value for name, value in attrs if name in ("src", "srcset", "data") or (name, tag) == ("href", "link")
        ]


@pytest.fixture(scope="module")
def page(experiment: Experiment, store: Store) -> str:
    return render(experiment, store)


def test_everything_is_there(page: str) -> None:
    for title in (
        *("Reward", "Benchmark accuracy", "|Bellman residual|", "Soft value", "KL to the reference"),
        *("Length of untruncated responses", "Off-policy diagnostics", "Reasoning patterns"),
        *("Responses side by side", "From the first to the last policy", "Reproduce"),
    ):
        assert title in page, title
    assert "wrong at both ends" in page
    assert re.search(r"policy\[0\].*?\d+\.\d \[\d+\.\d, \d+\.\d\]", page, re.DOTALL)


def test_it_can_be_made_again_from_itself(page: str, store: Store, experiment: Experiment) -> None:
    for table in ("rollouts", "rewards", "ref_logprobs", "scores"):
        assert store.partition("exp", table, 0).manifest().hash in page
    assert "per_generation: 8" in page
    assert "tbrm run exp.yaml" in page
    assert "engine transformers" in page
    assert "verifier exact_integer" in page
    changed = experiment.model_copy(update={"training": experiment.training.model_copy(update={"beta": 0.5})})
    assert "generation 0 was trained with beta = 0.1" in render(changed, store)


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    tags = Tags(page)
    assert not tags.names & {"script", "iframe", "object", "embed", "img", "b", "form", "base"}
    assert tags.fetched == ["data:,"]
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(" not in page


def test_what_models_wrote_is_escaped(page: str) -> None:
    assert SCRIPT not in page
    assert "&lt;script&gt;document.title=" in page
    assert "{{ 7*7 }}" in page
    assert "\\x1b[31mred\\x00\\u202ereversed" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page)


def test_the_command_writes_a_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exp.yaml").write_text(yaml.safe_dump(TREE))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(tbrm, ["report", "exp.yaml", "--root", store.root])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == "exp.html"
    assert (tmp_path / "exp.html").read_text().startswith("<!doctype html>")


def test_before_anything_ran_it_says_what_to_do(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(TbrmError, match=r"nothing in .* yet: start it with `tbrm run exp`"):
        write_report(experiment, open_store(str(tmp_path / "empty")), tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_damaged_file_is_named(experiment: Experiment, store: Store) -> None:
    path = Path(store.base) / "exp" / "trained_policy" / "generation=0000" / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(StoreError, match=r"metrics\.jsonl is damaged"):
            render(experiment, store)
    finally:
        path.write_bytes(whole)


def test_without_evaluation_and_rollouts_there_is_less_to_show(store: Store, tmp_path: Path) -> None:
    """Pure offline: only a trained policy."""
    offline = build_experiment(
        TREE | {"rollouts": "none", "evaluation": None, "replay": {"window": 0, "logged": [{"name": "log"}]}}, "test"
    )
    bare = open_store(str(tmp_path / "root"))
    target = Path(bare.base) / "exp" / "trained_policy"
    target.mkdir(parents=True)
    source = Path(store.base) / "exp" / "trained_policy" / "generation=0000"
    (target / "generation=0000").mkdir()
    for name in ("_manifest.json", "metrics.jsonl", "training.json"):
        (target / "generation=0000" / name).write_bytes((source / name).read_bytes())
    found = render(offline, bare)
    assert "Soft value" in found
    assert "Benchmark accuracy" not in found
    assert "Responses side by side" not in found
    summarize(offline, bare)
    assert (Path(bare.base) / "exp" / PICTURE).stat().st_size > 10_000


def test_the_summary_of_a_run(experiment: Experiment, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    summarize(experiment, store)
    shown = capsys.readouterr().out
    for title in ("sampled reward", "heldout", "|res.|", "V(s_1)", "KL", "tokens", "train s"):
        assert title in shown, title
    assert (Path(store.base) / "exp" / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_patterns_by_generation(store: Store) -> None:
    first, second = pattern_groups(store, "exp")
    assert (first.label, first.responses, first.rates["verification"].value) == ("0", 16, 0.0)
    assert second.rates["verification"].value == 1.0
    assert second.rates["verification"].low < 1.0
    assert second.examples[0].match == "Let's verify"
    result = CliRunner().invoke(tbrm, ["patterns", "exp", "--root", store.root, "--examples"])
    assert result.exit_code == 0, result.output
    assert "\x1b[31m" not in result.output
    assert "100.0 [" in result.output
    missing = CliRunner().invoke(tbrm, ["patterns", "nobody", "--root", store.root])
    assert missing.exit_code == 1
    assert "nobody has no responses" in missing.output


def test_pictures_for_the_graph(store: Store) -> None:
    from assets.experiment.pages import accuracy_plot, training_plot

    for text in (training_plot(store, "exp", 0), accuracy_plot(store, "exp", 1)):
        assert re.fullmatch(r"!\[[^\]]+\]\(data:image/png;base64,[A-Za-z0-9+/=]+\)", text)
