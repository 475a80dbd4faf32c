"""Wrong experiments are refused with the path of the field and the reason; right ones resolve the same way always."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.config import build_experiment, experiments_folder, load_experiment, stage_hash
from pipeline.config.training import TrainingConfig
from pipeline.errors import ConfigError

TREE = {
    "name": "small",
    "generations": 2,
    "policy": {"base": "builtin:tiny-arith"},
    "prompts": {"source": "arithmetic", "per_generation": 8},
    "rollouts": {"n": 2, "max_tokens": 8},
    "training": {"objective": "tbrm"},
}


def write(folder: Path, text: str) -> str:
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", sorted(experiments_folder().glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_of_the_project_is_valid(path: Path) -> None:
    assert load_experiment(str(path)).name == path.stem


@pytest.mark.parametrize(
    ("overrides", "where", "reason"),
    [
        (["training.betta=1"], "training.betta", "unknown field"),
        (["training.beta=0"], "training.beta", "greater than 0"),
        (["training.beta=-0.1"], "training.beta", "greater than 0"),
        (["training.beta=.nan"], "training.beta", "finite"),
        (["training.objective=grpo", "rollouts.n=1"], "training.objective: grpo", "rollouts.n"),
        (["training.objective=daa_pair", "rollouts.n=1"], "daa_pair", "2 or more"),
        (["training.objective=grpo", "replay.max_per_prompt=1"], "training.objective: grpo", "max_per_prompt: 1"),
        (["training.objective=daa_point", "replay.max_per_prompt=1"], "daa_point", "set it to 2 or more"),
        (["training.objective=grpo", "rollouts.temperature=0.7"], "training.objective: grpo", "temperature: 1"),
        (["training.objective=ppo", "rollouts.temperature=0"], "training.objective: ppo", "temperature: 1"),
        (["training.objective=ppo", "rollouts.top_p=0.9"], "training.objective: ppo", "top_p: 1"),
        (["training.objective=grpo", "rollouts.top_k=20"], "training.objective: grpo", "top_k: 0"),
        (["policy.dtype=bfloat16", "training.zero_stage=0"], "training.zero_stage: 0", "master weights"),
        (["replay.window=0"], "nothing to train on", "replay.logged"),
        (["rollouts=none"], "nothing to train on", "replay.logged"),
        (["name=../elsewhere"], "name", "a-z"),
        (["name=logged"], "name", "not one of"),
        (["generations=0"], "generations", "greater than 0"),
        (["prompts.source=file"], "prompts", "needs `path`"),
        (["prompts.arithmetic.heldout=9000"], "prompts.arithmetic", "heldout"),
        (["evaluation={benchmarks: [amc23, amc23]}"], "evaluation.benchmarks", "twice"),
    ],
)
def test_a_wrong_field_is_named_with_the_reason(overrides: list[str], where: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_experiment("arith_tiny", overrides)
    assert where in str(error.value)
    assert reason in str(error.value)


def test_a_sampler_of_its_own_is_no_matter_to_objectives_without_ratios() -> None:
    greedy = load_experiment("arith_tiny", ["rollouts.temperature=0", "rollouts.top_p=0.9", "training.objective=brm"])
    assert greedy.rollouts is not None
    assert greedy.rollouts.temperature == 0
    unused = ["training.objective=ppo", "rollouts.temperature=0", "replay={window: 0, logged: [{name: somebodys_ppo}]}"]
    assert load_experiment("arith_tiny", unused).training.objective == "ppo"


def test_pure_offline_and_on_policy_are_configuration_alone() -> None:
    offline = load_experiment("arith_tiny", ["rollouts=none", "replay={window: 0, logged: [{name: somebodys_ppo}]}"])
    assert offline.rollouts is None
    on_policy = load_experiment("qwen25_math_1p5b_onpolicy")
    assert (on_policy.replay.window, on_policy.training.updates_per_generation) == (1, 1)
    assert on_policy.generations * on_policy.prompts.per_generation == 97_280


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.beta", "write it as"),
        ("name.x.y=1", "valid string"),
        ("training.beta=[", "not YAML"),
    ],
)
def test_a_wrong_override_is_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("arith_tiny", [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("name: a\nname: b\n", "stands twice"),
        ("[1, 2]\n", "mapping"),
        ("name: !!python/object/apply:os.system ['true']\n", "not readable YAML"),
        ("name: {\n", "not readable YAML"),
    ],
)
def test_hostile_or_broken_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, text))


def test_all_wrong_fields_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        build_experiment(TREE | {"generations": -1, "colour": "red"}, "here.yaml")
    assert "here.yaml" in str(error.value)
    assert "generations" in str(error.value)
    assert "colour" in str(error.value)


def test_stage_hash_depends_on_values_only() -> None:
    one, other = build_experiment(TREE, "a"), build_experiment(dict(reversed(TREE.items())), "b")
    assert stage_hash(one) == stage_hash(other)
    assert stage_hash(one) != stage_hash(build_experiment(TREE | {"seed": 1}, "c"))


@pytest.mark.parametrize(
    "value", ["1" * 5_000, "[" * 3_000, "&a [*a]", "\ud800"], ids=["digits", "depth", "alias", "surrogate"]
)
def test_values_that_no_parser_takes_are_refused_in_one_line(value: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.beta"):
        load_experiment("arith_tiny", [f"training.beta={value}"])


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_a_seed_that_no_generator_of_random_numbers_takes_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match="seed"):
        build_experiment(TREE | {"seed": seed}, "here.yaml")


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_first_and_the_last_seed_are_taken(seed: int) -> None:
    assert build_experiment(TREE | {"seed": seed}, "here.yaml").seed == seed


def test_a_store_of_an_earlier_version_keeps_a_monitor_that_was_off() -> None:
    off = {"tensorboard": None, "csv": None, "wandb_project": None}
    assert TrainingConfig.model_validate({"monitor": off}) == TrainingConfig()
    with pytest.raises(ValidationError, match="monitor"):
        TrainingConfig.model_validate({"monitor": off | {"csv": "folder"}})
