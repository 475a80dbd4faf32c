"""Commands that used to end well although what they were asked for is not there."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from assets.experiment.source import check_whole
from pipeline.cli.main import tbrm
from pipeline.config import load_experiment
from pipeline.errors import ConfigError, TbrmError
from pipeline.run.requirements import check_models
from pipeline.store import open_store
from tests.support.tiny import write_tiny


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(tbrm, list(arguments))
    assert done.exit_code == 1, done.output
    return done.output


def test_a_store_that_is_not_there() -> None:
    assert "there is no store at /nonexistent" in refused("inspect", "--root", "/nonexistent")


@pytest.mark.parametrize("what", ["arith_tiny:44", "arith_tiny/rollouts/generation=0044"])
def test_lineage_of_nothing(tmp_path: Path, what: str) -> None:
    assert f"'{what}' is not in {tmp_path}" in refused("lineage", what, "--root", str(tmp_path))


@pytest.mark.parametrize(
    "command", [["rollouts", "-e"], ["rewards", "-e"], ["ref-logprobs", "-e"], ["train", "-e"], ["diagnostics"]]
)
def test_a_generation_that_the_experiment_does_not_have(tmp_path: Path, command: list[str]) -> None:
    asked = (*command, str(write_tiny(tmp_path)), "--root", str(tmp_path))
    for generation in ("2", "99"):
        assert f"tiny has generations 0 to 1 (`generations: 2`), no {generation}" in refused(*asked, "-g", generation)


def test_a_policy_that_the_experiment_does_not_have(tmp_path: Path) -> None:
    asked = ("evaluate", "-e", str(write_tiny(tmp_path)), "--root", str(tmp_path), "-g")
    assert "tiny has policies 0 to 2 (`generations: 2`), no 3" in refused(*asked, "3")
    assert "policy[2] of tiny is not published yet, none is" in refused(*asked, "2")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("policy.base=/nonexistent/model", "policy.base: there is no folder /nonexistent/model"),
        ("reference.policy=./nonexistent", "reference.policy: there is no folder ./nonexistent"),
        ("evaluation={pinned: [/nonexistent/rival]}", "evaluation.pinned: there is no folder /nonexistent/rival"),
        ("policy.attention=flash_attention_3", "policy.attention: flash_attention_3: flash_attn_3 is not installed"),
    ],
)
def test_validation_looks_for_models_and_packages(tmp_path: Path, override: str, words: str) -> None:
    path = str(write_tiny(tmp_path))
    assert words in refused("config", "validate", path, "--set", override)
    assert CliRunner().invoke(tbrm, ["config", "validate", path]).exit_code == 0


def test_validation_looks_for_the_adapter(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    experiment = load_experiment(str(write_tiny(tmp_path)), ["rollouts.engine=auto", f"rollouts.adapter={adapter}"])
    with pytest.raises(ConfigError, match=r"rollouts.adapter: .*/adapter is no folder with an adapter_config.json"):
        check_models(experiment)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert check_models(experiment) == []


def test_a_benchmark_that_does_not_exist_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    experiment = load_experiment(str(write_tiny(tmp_path)), ["evaluation={benchmarks: [aime1924]}"])
    with pytest.raises(TbrmError, match=r"no benchmark 'aime1924'\. Did you mean aime\d\d\? There are aime24"):
        check_whole(open_store(str(tmp_path)), experiment)
