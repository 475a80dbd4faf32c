"""Every field of the configuration explains itself: on the page, to an editor, and to whoever mistypes it."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from pipeline.cli.main import tbrm
from pipeline.config import Experiment, build_experiment, experiments_folder, load_experiment
from pipeline.config.explain import configuration_page, explain, explained_fields, json_schema
from pipeline.errors import ConfigError

ROOT = Path(__file__).parents[3]
EXPERIMENTS = sorted(experiments_folder().glob("*.yaml"))


def run(*words: str) -> Result:
    return CliRunner().invoke(tbrm, list(words))


def paths_in(tree: Any, above: str = "") -> set[str]:
    """Paths of a resolved experiment; entries of lists are not gone into."""
    if not isinstance(tree, dict):
        return {above}
    return {path for name, value in tree.items() for path in paths_in(value, f"{above}.{name}".lstrip("."))} | {above}


def test_the_page_and_the_schema_are_those_of_the_types() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == configuration_page(), "run scripts/write-configuration"
    schema = json.loads((ROOT / "docs/experiment.schema.json").read_text())
    assert schema == json_schema(), "run scripts/write-configuration"


def test_no_field_is_without_its_line() -> None:
    fields = explained_fields()
    for path in EXPERIMENTS:
        resolved = load_experiment(str(path)).model_dump(mode="json")
        lacking = paths_in(resolved) - {""} - {field.path for field in fields}
        assert not {name for name in lacking if not name.startswith(("evaluation.protocols.", "launch.stages."))}
    assert [field.path for field in fields if len(field.about) < 10] == []
    assert [field.path for field in fields if not (ROOT / "docs" / field.page).is_file()] == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_editor_finds_the_schema_and_nothing_wrong_in_what_is_shipped(path: Path) -> None:
    named = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    validator = jsonschema.Draft202012Validator(json.loads((path.parent / named).read_text()))
    tree = yaml.safe_load(path.read_text())
    assert list(validator.iter_errors(tree)) == []
    training = tree["training"]
    for wrong in (
        {"training": {**training, "betta": 1}},
        {"training": {**training, "objective": "tbmr"}},
        {"seed": -1},
    ):
        assert list(validator.iter_errors(tree | wrong)), wrong


def test_an_editor_takes_every_resolved_experiment_and_the_word_none() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    for path in EXPERIMENTS:
        tree = json.loads(load_experiment(str(path)).model_dump_json())
        assert list(validator.iter_errors(tree)) == []
        offline = tree | {"rollouts": "none", "replay": {"window": 0, "logged": [{"name": "log"}]}}
        assert list(validator.iter_errors(offline)) == []
        assert build_experiment(offline, "offline").rollouts is None


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("training.beta", "training.beta"),
        ("beta", "training.beta"),
        ("replay.logged.name", "replay.logged[].name"),
        ("evaluation.protocols.samples", "evaluation.protocols.<name>.samples"),
    ],
)
def test_a_field_is_explained_by_its_path_or_its_bare_name(path: str, found: str) -> None:
    assert found in [field.path for field in explain(path)]
    shown = run("config", "explain", path)
    assert shown.exit_code == 0
    assert found in shown.output
    assert explain(path)[0].about.split()[0] in shown.output
    assert json.loads(run("config", "explain", path, "--json").output)[0]["path"] == explain(path)[0].path


def test_a_part_is_explained_with_its_fields_and_all_of_it_without_a_name() -> None:
    filters = [field.path for field in explain("replay.filters")]
    assert filters[0] == "replay.filters"
    assert "replay.filters.success_rate" in filters
    assert "replay.window" not in filters
    assert len(run("config", "explain").output.splitlines()) == len(explained_fields())
    assert json.loads(run("config", "schema").output) == json_schema()


def test_what_a_field_decides_is_what_its_type_says() -> None:
    decides = {field.path: field.decides for field in explained_fields()}
    assert decides["training.beta"] == "every generation"
    assert decides["rollouts.engine"] == "its generation"
    assert decides["training.micro_batch_tokens"] == "nothing stored"
    assert decides["tracker"] == "nothing stored"
    assert decides["evaluation.protocols.<name>.samples"] == "its scores"
    assert Experiment.model_fields.keys() <= decides.keys()


@pytest.mark.parametrize(
    ("path", "value", "meant"),
    [
        ("training.learning_rat", 1, "learning_rate"),
        ("rollouts.agreement.sampel", 1, "sample"),
        ("replay.logged", [{"name": "a", "wieght": 1}], "weight"),
        ("evaluation.protocols", {"math500": {"sample": 4}}, "samples"),
        ("training.objective", "tbmr", "tbrm"),
        ("training.objective", "GRPO", "grpo"),
        ("policy.dtype", "bfloat", "bfloat16"),
        ("rollouts.engine", "vlm", "vllm"),
        ("rewards.verifier", "math_verfy", "math_verify"),
        ("rolouts", {}, "rollouts"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(path: str, value: Any, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"Did you mean {meant}\?"):
        load_experiment("arith_tiny", [f"{path}={json.dumps(value)}"])


def test_what_resembles_nothing_gets_no_guess() -> None:
    with pytest.raises(ConfigError, match=r"training\.zzz: unknown field\. `tbrm config explain`"):
        load_experiment("arith_tiny", ["training.zzz=1"])


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("benchmark",), "benchmarks"),
        (("rollout", "-e", "arith_tiny"), "rollouts"),
        (("config", "show", "arith_tny"), "arith_tiny"),
        (("config", "explain", "traning.beta"), "training.beta"),
        (("study", "stalenes"), "staleness"),
    ],
)
def test_commands_and_names_are_answered_alike(words: tuple[str, ...], meant: str) -> None:
    done = run(*words)
    assert done.exit_code != 0
    assert f"Did you mean {meant}?" in done.output
