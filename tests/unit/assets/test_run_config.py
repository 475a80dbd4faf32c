"""What a run that is started in the UI may set: every field of the configuration is looked at, and none names code."""

import json
import types
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from dagster import AssetKey, DagsterInstance, DagsterInvalidConfigError, validate_run_config
from dagster._config import ConfigType, Field  # pyright: ignore[reportPrivateUsage]

from assets.definitions import build_definitions
from assets.experiment.run_config import A_RUN_MAY_SET, ONLY_THE_YAML_SETS, check_overrides
from assets.experiment.source import read_experiment, read_experiments
from assets.experiment.stages import stages_of
from assets.graph.by_hand import EVALUATION_JOB, ImportConfig, PolicyEvaluation
from assets.graph.forms import form_of, overrides_of
from assets.graph.step import StoreLocation
from assets.processes.launcher import Ended, Launcher, Process
from pipeline.cli.import_logged import import_logged
from pipeline.config import Experiment, load_experiment
from pipeline.config.base import Config
from pipeline.errors import TbrmError
from tests.support.tiny import write_tiny


def models(model: type[Config]) -> Iterator[type[Config]]:
    """`model`, and every part of the tree below it."""
    yield model
    waiting: list[Any] = [field.annotation for field in model.model_fields.values()]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and not isinstance(one, types.GenericAlias) and issubclass(one, Config):
            yield from models(one)
        waiting += get_args(one)


def test_every_field_of_the_configuration_is_looked_at() -> None:
    found = set(models(Experiment))
    assert len(found) > 20
    for model in found:
        free, kept = (set(table.get(model, "").split()) for table in (A_RUN_MAY_SET, ONLY_THE_YAML_SETS))
        assert not free & kept, f"{model.__name__}: in both tables"
        missing = set(model.model_fields) - free - kept
        assert not missing, f"assets/experiment/run_config.py: may a run set {missing} of {model.__name__}?"
    assert set(A_RUN_MAY_SET) | set(ONLY_THE_YAML_SETS) <= found


SERVER = "http://attacker.example/v1#m"
REFUSED = {
    "rewards.verifier=os:system": "rewards.verifier",
    "rewards={verifier: 'os:system'}": "rewards.verifier",
    "rewards.user_verifiers=['os:system']": "rewards.user_verifiers",
    f"rollouts.policy='{SERVER}'": "rollouts.policy",
    "rollouts.policy=/tmp/model": "rollouts.policy",
    "rollouts={engine: vllm, adapter: /tmp/adapter}": "rollouts.adapter",
    "policy.base=attacker/model": "policy.base",
    "policy.revision=main": "policy.revision",
    "policy.warm_start.logged=other": "policy.warm_start.logged",
    "reference.policy=/tmp/model": "reference.policy",
    "prompts.path=/etc/passwd": "prompts.path",
    "prompts.exclude_overlap={source: /tmp}": "prompts.exclude_overlap.source",
    "prompts.reasoning_gym={tasks: [spiral_matrix]}": "prompts.reasoning_gym.tasks",
    "launch={by: slurm, stages: {rewards: ['--wrap=id']}}": "launch",
    "ray={address: 'ray://attacker.example:10001'}": "ray",
    "training.machines=2": "training.machines",
    "tracker=wandb": "tracker",
    "evaluation={source: /tmp}": "evaluation.source",
    f"evaluation.pinned=['{SERVER}']": "evaluation.pinned",
    "evaluation.benchmarks=[/tmp/evil.yaml]": "evaluation.benchmarks",
    "evaluation.protocols={a: {benchmark: ../evil.yaml}}": "evaluation.protocols.a.benchmark",
    f"servers=['{SERVER}']": "servers",
    "name=other": "name",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_names_code_hosts_or_places_is_the_yamls(tmp_path: Path, override: str) -> None:
    path = str(write_tiny(tmp_path))
    with pytest.raises(TbrmError, match=f"cannot set .*`{REFUSED[override]}`.*YAML file of tiny"):
        check_overrides(load_experiment(path), load_experiment(path, [override]))


@pytest.mark.parametrize(
    "override",
    [
        "training.beta=0.5",
        "training={beta: 0.5, objective: brm}",
        "training.lora={rank: 4}",
        "rewards.verifier=exact_integer",
        "rewards.verifier='my.package:graded'",
        "rewards.components.format=0.5",
        "replay.logged=[{name: other, weight: 2.0}]",
        "evaluation={benchmarks: [heldout, paper], protocols: {heldout: {samples: 1}}}",
        "rollouts.n=4",
        "generations=3",
    ],
)
def test_numbers_choices_and_what_the_yaml_declares_are_free(tmp_path: Path, override: str) -> None:
    path = write_tiny(tmp_path)
    path.write_text(path.read_text() + "rewards: {user_verifiers: ['my.package:graded']}\n")
    changed = load_experiment(str(path), [override])
    assert changed != load_experiment(str(path))
    check_overrides(load_experiment(str(path)), changed)


class Recorder(Launcher):
    """Notes the command of a stage on disk instead of running it."""

    file: str

    def run(self, process: Process) -> Ended:
        with Path(self.file).open("a") as file:
            file.write(json.dumps(process.command[3:]) + "\n")
        return Ended(1, (), process.log)


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with the experiments `tiny` and `named`, which names a server, and a YAML elsewhere."""
    write_tiny(tmp_path)
    tree = yaml.safe_load((tmp_path / "experiments" / "tiny.yaml").read_text())
    named = tree | {"name": "named", "servers": ["http://127.0.0.1:9/v1"]}
    (tmp_path / "experiments" / "named.yaml").write_text(yaml.safe_dump(named))
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(tree | {"rewards": {"verifier": "os:system"}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def launched(experiments: Path) -> Any:
    """Starts a job with a run config; gives (the stages' commands, the messages of the failed steps)."""
    sources, _ = read_experiments(experiments / "experiments")
    recorder = Recorder(file=str(experiments / "commands"))
    definitions = build_definitions(sources, store=StoreLocation(root=str(experiments / "data")), launcher=recorder)

    def run(job: str, op: str, config: dict[str, Any], partition: str | None = None) -> tuple[list[list[str]], str]:
        with DagsterInstance.ephemeral() as instance:
            if job == EVALUATION_JOB and partition:
                instance.add_dynamic_partitions("evaluated_policies", [partition])
            result = definitions.resolve_job_def(job).execute_in_process(
                run_config={"ops": {op: {"config": config}}},
                instance=instance,
                partition_key=partition,
                raise_on_error=False,
                asset_selection=None if job == EVALUATION_JOB else [AssetKey(op.split("__"))],
            )
            failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
            told = " ".join(str(f.user_failure_data.description) for f in failures if f.user_failure_data)
        file = experiments / "commands"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else [], told

    return run


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"policy": SERVER}, "`policy`.*`servers`"),
        ({"policy": SERVER, "experiment": "tiny"}, "`policy`.*`servers` in the YAML file of tiny"),
        ({"policy": SERVER, "experiment": "named"}, "`policy`.*`servers`"),
        ({"policy": "http://127.0.0.1:90/v1", "experiment": "named"}, "`policy`.*`servers`"),
        ({"policy": "https://127.0.0.1:9/v1", "experiment": "named"}, "`policy`.*`servers`"),
        ({"policy": "http://127.0.0.1:9@attacker.example/v1", "experiment": "named"}, "`policy`.*`servers`"),
        ({"policy": "http://127.0.0.1:9\\@attacker.example/v1", "experiment": "named"}, "`policy`.*`servers`"),
        ({"policy": "tiny:0", "experiment": "evil.yaml"}, "`experiment`.*experiments/"),
        ({"policy": "tiny:0", "experiment": "../evil"}, "`experiment`"),
        ({"policy": "tiny:0", "experiment": "tiny", "overrides": ["rewards.verifier=os:system"]}, "rewards.verifier"),
        ({"policy": "tiny:0", "experiment": "tiny", "overrides": [f"servers=['{SERVER}']"]}, "servers"),
        ({"policy": "tiny:0", "benchmarks": ["evil.yaml"]}, "`benchmarks`"),
        ({"policy": "tiny:0", "experiment": "tiny", "benchmarks": ["/tmp/evil.yaml"]}, "`benchmarks`"),
        ({"policy": "tiny:0", "source": "s3://attacker/benchmarks"}, "`source`"),
        ({"policy": "s3://attacker/model"}, "`policy`"),
    ],
)
@pytest.mark.usefixtures("experiments")
def test_an_evaluation_by_hand_names_neither_code_nor_hosts(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(TbrmError, match=reason):
        PolicyEvaluation(**{k: v for k, v in config.items() if k != "policy"}).read(config.get("policy", "tiny:0"))


def test_an_evaluation_by_hand_is_refused_before_a_process_starts(launched: Any) -> None:
    """The attack of one address: a server of the attacker's, and a function to import."""
    commands, told = launched(EVALUATION_JOB, "evaluated_policies", {"experiment": "named"}, SERVER)
    assert commands == []
    assert "`servers`" in told
    config = {"experiment": "tiny", "overrides": ["rewards.verifier=os:system"]}
    commands, told = launched(EVALUATION_JOB, "evaluated_policies", config, "tiny:0")
    assert commands == []
    assert "`rewards.verifier`" in told


def test_a_server_that_the_yaml_names_is_asked(launched: Any) -> None:
    commands, _ = launched(EVALUATION_JOB, "evaluated_policies", {"experiment": "named"}, "http://127.0.0.1:9/v1#m")
    assert commands[0][0] == "evaluate"
    assert commands[0][-2:] == ["--", "http://127.0.0.1:9/v1#m"]


def test_a_stage_is_refused_before_a_process_starts(launched: Any) -> None:
    config = {"overrides": ["rewards.verifier=os:system"]}
    commands, told = launched("tiny_generation", "tiny__rewards", config, "0000")
    assert commands == []
    assert "`rewards.verifier`" in told


def test_what_is_mistyped_is_told_in_words_of_the_form_and_without_a_stack_trace(launched: Any) -> None:
    for override, near in (("rewards.verifer=plain", "verifier"), ("training.objective=tbm", "tbrm")):
        commands, told = launched("tiny_generation", "tiny__rewards", {"overrides": [override]}, "0000")
        assert commands == []
        assert "Did you mean" in told
        assert near in told
        assert "Traceback" not in told
    _, told = launched("tiny_generation", "tiny__rewards", {"overrides": ["rewards.verifier"]}, "0000")
    assert "`overrides`: 'rewards.verifier': write it as path.to.field=value" in told


def test_a_form_is_filled_in_as_the_yaml_has_it_and_takes_only_what_there_is(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    path.write_text(path.read_text() + "rewards: {verifier: exact_integer, user_verifiers: ['my.package:graded']}\n")
    source = read_experiment(str(path))
    job = build_definitions([source]).resolve_job_def("tiny_generation")
    form = job.run_config_schema.config_type.fields["ops"].config_type.fields  # pyright: ignore
    training = form["tiny__trained_policy"].config_type.fields["config"].config_type.fields
    assert training["objective"].default_value == "tbrm"
    assert training["beta"].default_value == 0.01
    assert "reward" in training["beta"].description
    for verifier, is_one in (("my.package:graded", True), ("plain", True), ("exact_intege", False)):
        config = {"ops": {"tiny__rewards": {"config": {"verifier": verifier}}}}
        with nullcontext() if is_one else pytest.raises(DagsterInvalidConfigError, match="verifier"):
            validate_run_config(job, config)
    stage = next(stage for stage in stages_of(source.experiment) if stage.name == "rewards")
    filled = form_of(source.experiment, stage)(verifier="plain", overrides=["rewards.batch=4"])
    assert overrides_of(source.experiment, stage, filled) == ['rewards.verifier="plain"', "rewards.batch=4"]
    assert overrides_of(source.experiment, stage, form_of(source.experiment, stage)()) == []


def test_no_value_is_taken_for_an_option() -> None:
    hostile = "--root=/elsewhere"
    evaluation = PolicyEvaluation().arguments(hostile, None, ["--root", "/here"])
    assert evaluation[evaluation.index("--") :] == ["--", hostile]
    imported = ImportConfig(files=[hostile, "--map=verifier=x"], tokenizer="t").arguments("log", ["--root", "/here"])
    assert imported[imported.index("--") :] == ["--", hostile, "--map=verifier=x"]


@pytest.mark.parametrize(
    "config", [{"files": ["s3://a/b"]}, {"files": ["a.jsonl", "http://h/x"]}, {"tokenizer": "http://h"}]
)
def test_an_import_takes_no_addresses(config: dict[str, Any]) -> None:
    with pytest.raises(TbrmError, match="is an address"):
        ImportConfig(**({"files": ["a.jsonl"], "tokenizer": "t"} | config)).check()


def test_an_import_says_what_the_command_says() -> None:
    """The form's fields reach `tbrm import` as the values of their options, whatever they begin with."""
    form: dict[str, Any] = {"files": ["a.jsonl"], "tokenizer": "t", "log_format": "trl"}
    form |= {"rewards": {"accuracy": 1.0, "--root": 0.5}, "where": {"filter": "--replace"}}
    words = ImportConfig(**form).arguments("log", ["--root", "/here"])
    given = import_logged.make_context("import", words[1:], resilient_parsing=False).params
    assert given["source"] == "trl"
    assert given["rewards"] == ("accuracy=1", "--root=0.5")
    assert given["where"] == ("filter=--replace",)
    assert given["root"] == "/here"
    assert not given["replace"]


def test_a_format_that_is_none_is_named_with_the_nearest() -> None:
    with pytest.raises(TbrmError, match="Did you mean verl"):
        ImportConfig(files=["a.jsonl"], tokenizer="t", log_format="varl").check()


OP_FIELDS = {
    "StageConfig": {"overrides", "replace"},
    "of rewards": {"overrides", "replace", "verifier"},
    "of trained_policy": {"overrides", "replace", "objective", "beta", "learning_rate"},
    "of scores": {"overrides", "replace", "benchmarks"},
    "BranchConfig": {"experiment", "generation", "overrides"},
    "PolicyEvaluation": {"experiment", "benchmarks", "source", "max_problems", "overrides", "replace"},
    "ImportConfig": {
        "files",
        "tokenizer",
        "log_format",
        "rewards",
        "where",
        "fields",
        "behaviour_policy",
        "template",
        "max_bad_share",
        "duplicates",
        "generation",
        "replace",
    },
}


def leaves(field: Field, path: str) -> Iterator[str]:
    """Paths of everything below a field of Dagster's run config."""
    kind: ConfigType = field.config_type
    below: Mapping[str, Field] = getattr(kind, "fields", None) or {}
    if not below:
        yield path
    for name, child in below.items():
        yield from leaves(child, f"{path}.{name}")


def test_nothing_else_of_a_run_can_be_set(tmp_path: Path) -> None:
    """Resources above all: the store's root, and the folder of Dagster's own storage."""
    sources, _ = read_experiments(write_tiny(tmp_path).parent)
    definitions = build_definitions(sources)
    known = OP_FIELDS.values()
    for job in definitions.resolve_all_job_defs():
        schema = job.run_config_schema.run_config_schema_type
        for name, field in schema.fields.items():  # pyright: ignore[reportAttributeAccessIssue]
            found = set(leaves(field, name))
            if name == "ops":
                ops: dict[str, set[str]] = {}
                for leaf in found:
                    _, op, section, *rest = leaf.split(".")
                    if section == "config" and rest:
                        ops.setdefault(op, set()).add(rest[0])
                    else:
                        assert section in ("outputs", "inputs", "config"), leaf
                assert all(fields in known for fields in ops.values()), ops
            elif name == "resources":
                assert all(leaf.count(".") == 2 and leaf.endswith(".config") for leaf in found), found
            else:
                assert name in ("execution", "loggers"), name
