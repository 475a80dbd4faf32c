"""`package:` and `builtin:` name a model or a tokenizer wherever a folder or a hub id does."""

import json
from pathlib import Path

import pytest

from evals.run.targets import target_of
from pipeline.config.policy import BuiltModel, named_policy
from pipeline.errors import TbrmError
from pipeline.policies.load_save import built_folder, load_tokenizer, tokenizer_info
from pipeline.policies.refs import foreign_id, foreign_policy
from pipeline.policies.tiny import save_tiny_arith
from pipeline.reference import reference_policy
from pipeline.sampling.rollouts import behaviour_policy
from pipeline.store import open_store
from tests.support.logs import imported
from tests.support.tiny_store import make_experiment

NAME = "builtin:tiny-arith"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_builtin_model_is_made_once_and_is_one_policy_everywhere(tmp_path: Path) -> None:
    folder = built_folder(NAME)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    policy = foreign_policy(BuiltModel(NAME))
    assert (policy.path, policy.policy_id) == (str(folder), foreign_id(BuiltModel(NAME)))
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing half-made is left"
    target = target_of(open_store(str(tmp_path / "data")), NAME)
    assert target.policy == policy
    assert target.dataset.startswith("evaluated/builtin-tiny-arith")
    store = open_store(str(tmp_path / "data"))
    experiment = make_experiment(reference={"policy": NAME})
    assert reference_policy(store, experiment) == policy
    assert experiment.rollouts is not None
    teacher = experiment.rollouts.model_copy(update={"policy": NAME})
    assert behaviour_policy(store, experiment, teacher, 0) == policy


def test_a_log_is_imported_with_its_tokenizer(tmp_path: Path) -> None:
    rows = [{"prompt": f"{a}+1=", "response": str(a + 1), "reward": 1.0} for a in range(10, 14)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_tiny_arith(tmp_path / "folder", seed=7)
    named, _ = imported(tmp_path / "a", NAME, tmp_path / "log.jsonl")
    folder, _ = imported(tmp_path / "b", str(tmp_path / "folder"), tmp_path / "log.jsonl")
    one, other = (store.partition("logged/log", "rollouts", 0).manifest() for store in (named, folder))
    assert one.hash == other.hash, "the tokenizer counts by what it does, not by its name"
    assert one.tokenizer == tokenizer_info(load_tokenizer(NAME))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("builtin:tiny-arit", "there is no model builtin:tiny-arit; there are"),
        ("builtin:tiny-words", "can be `policy.base` of one alone"),
        ("package:no_such_package", "the package is absent"),
    ],
)
def test_what_is_no_model_is_said(name: str, told: str) -> None:
    assert named_policy(name) == BuiltModel(name)
    with pytest.raises(TbrmError, match=told):
        load_tokenizer(name)
    with pytest.raises(TbrmError, match=told):
        foreign_policy(BuiltModel(name))
