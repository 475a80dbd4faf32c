"""Who acts is one thing, how an engine runs another: no engine ignores what it cannot do, and none acts for another."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from evals.run.answers import LocalAnswerer, Question, answerer_of
from evals.run.plan import Changes, changed, plan_entries, setting_of
from pipeline.cli.main import tbrm
from pipeline.config.rollouts import EngineConfig, RolloutsConfig
from pipeline.errors import TbrmError
from pipeline.policies.load_save import load_tokenizer
from pipeline.policies.refs import PolicyRef, ServedPolicy
from pipeline.policies.tiny import save_tiny_arith
from pipeline.sampling.engines import Request, Sample, Sampling, choose_engine, load_engine
from tests.support.raw_server import raw_server, told
from tests.support.tiny_store import make_experiment

LOCAL, ADAPTED = PolicyRef("a", "/folder", 0), PolicyRef("a+b", "/folder", 0, "/adapter")
SERVED = ServedPolicy("m@here", "http://here/v1", "m")
TEACHER = "http://127.0.0.1:9/v1#teacher"


@pytest.mark.parametrize(
    ("policy", "stop", "words"),
    [(ADAPTED, (), r"an adapter \(`rollouts.adapter`\)"), (LOCAL, ("\n",), r"stop texts \(`rollouts.stop`\)")],
)
def test_an_engine_that_would_ignore_something_is_refused(policy: PolicyRef, stop: tuple[str, ...], words: str) -> None:
    with pytest.raises(TbrmError, match=rf"{words} would be ignored by the engine transformers: take vllm"):
        choose_engine(EngineConfig(engine="transformers"), policy, stop)


def test_the_policy_decides_whether_a_server_is_asked() -> None:
    assert choose_engine(EngineConfig(engine="vllm"), SERVED).name == "openai"
    sampled_elsewhere = RolloutsConfig(policy=TEACHER, engine="transformers")
    assert choose_engine(sampled_elsewhere.how(), LOCAL).name == "transformers"
    assert set(sampled_elsewhere.how().model_dump()).isdisjoint({"policy", "adapter", "n", "stop", "temperature"})


@pytest.mark.parametrize(
    "rollouts", [{"policy": TEACHER}, {"policy": "/a/teacher"}, {"engine": "auto", "adapter": "/an/adapter"}]
)
def test_an_evaluation_measures_the_policy_that_it_is_given(tmp_path: Path, rollouts: dict[str, str]) -> None:
    save_tiny_arith(tmp_path, seed=0)
    sampling = make_experiment().rollouts
    assert sampling is not None
    setting = setting_of(make_experiment(rollouts=sampling.model_dump() | rollouts))
    answerer = answerer_of(setting, PolicyRef("a", str(tmp_path), 0))
    assert isinstance(answerer, LocalAnswerer)
    assert answerer.name == "transformers"
    answerer.close()


def test_what_the_command_line_changes_of_an_evaluation_is_checked() -> None:
    setting = setting_of(make_experiment())
    assert changed(setting, Changes(engine="vllm", dtype="bfloat16")).engine.engine == "vllm"
    with pytest.raises(ValueError, match="dtype"):
        changed(setting, Changes(dtype="float8"))


def test_sampling_settings_in_the_policys_folder_do_not_act(tmp_path: Path) -> None:
    """Many instruction-tuned models come with a repetition penalty. The stored log-probs would be others, too."""
    save_tiny_arith(tmp_path, seed=1)
    tokenizer, policy = load_tokenizer(str(tmp_path)), PolicyRef("a", str(tmp_path), 0)

    def sampled() -> list[Sample]:
        engine = load_engine(EngineConfig(engine="transformers"), make_experiment().policy, policy, tokenizer)
        return engine.generate([Request([3, 4, 5, 6], seed) for seed in range(6)], Sampling(1.0, 1.0, 0, 8))

    before, path = sampled(), tmp_path / "generation_config.json"
    own = {"repetition_penalty": 5.0, "suppress_tokens": [7, 8], "min_new_tokens": 6, "no_repeat_ngram_size": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    assert sampled() == before


def test_what_ends_a_response_decides_it() -> None:
    setting = setting_of(make_experiment(evaluation={"benchmarks": ["heldout"]}))
    (entry,) = plan_entries(setting)
    keys = {entry.key("policy", replace(setting, stop=stop)) for stop in ((), ("7",), ("7", "8"), ("78",))}
    assert len(keys) == 4
    assert entry.key("policy", setting) == entry.key("policy", replace(setting, engine=EngineConfig(engine="vllm")))


@pytest.mark.parametrize("stop", [(), ("7", "\n")])
def test_a_server_is_told_what_ends_a_response(stop: tuple[str, ...]) -> None:
    setting = replace(setting_of(make_experiment(evaluation={"benchmarks": ["heldout"]})), stop=stop)
    (entry,) = plan_entries(setting)
    said = {"choices": [{"text": "4", "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}
    with raw_server(told(said)) as server:
        answerer = answerer_of(setting, ServedPolicy("m@here", server.url, "m"))
        (answer,) = answerer.answer([Question(entry.problems[0], 0, 1)], entry.protocol)
        answerer.close()
        assert (answer.text, json.loads(server.bodies[0]).get("stop")) == ("4", list(stop) or None)


@pytest.mark.parametrize("field", ["adapter: /an/adapter", "stop: ['7']"])
def test_another_engine_for_sampling_is_checked_with_all_the_rest(tmp_path: Path, field: str) -> None:
    tree = make_experiment().model_dump(mode="json")
    tree["rollouts"] |= {"engine": "auto"} | yaml.safe_load(field)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree))
    arguments = ["rollouts", "-e", str(tmp_path / "small.yaml"), "-g", "0", "--root", str(tmp_path / "data")]
    result = CliRunner().invoke(tbrm, [*arguments, "--engine", "transformers"])
    assert result.exit_code == 1
    assert "need `rollouts.engine: vllm`" in result.output
    assert not (tmp_path / "data").exists()
