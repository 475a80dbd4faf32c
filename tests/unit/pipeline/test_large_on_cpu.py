"""A model that a CPU would take hours for is refused before it is loaded, unless the experiment wants it."""

import json
from pathlib import Path

import pytest
import torch

from evals.run.answers import LocalAnswerer
from evals.run.plan import Changes, changed, setting_of, setting_without_experiment
from pipeline.errors import TbrmError
from pipeline.policies.load_save import refuse_large_on_cpu
from pipeline.policies.refs import PolicyRef, publish_policy, resolve_policy
from pipeline.reference import run_ref_logprobs
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store
from tests.support.tiny_store import make_experiment, make_store
from trainer.stages.train import run_train

ROWS, WIDTH = 1_000_000, 201


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def large(store: Store) -> str:
    """policy[1] of the store: a file whose header promises 201M numbers, none of which is on the disk."""
    small = Path(resolve_policy(store, make_experiment(), 0).path)
    folder = Path(store.base) / "small" / "trained_policy" / "generation=0000"
    folder.mkdir(parents=True)
    for path in small.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    header = json.dumps(
        {"w": {"dtype": "BF16", "shape": [ROWS, WIDTH], "data_offsets": [0, 2 * ROWS * WIDTH]}}
    ).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * ROWS * WIDTH)
    publish_policy(store, "small", 1, folder, {})
    return str(folder)


def test_it_is_refused_and_says_how_to_have_it(large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TbrmError, match=r"201M parameters, and there is no GPU.*large_model_on_cpu"):
        refuse_large_on_cpu(large, allowed=False)
    refuse_large_on_cpu(large, allowed=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    refuse_large_on_cpu(large, allowed=False)


def test_stages_refuse_it(store: Store, large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.sampling.rollouts", "trainer.stages.train"):  # of weights that are not there
        monkeypatch.setattr(f"{module}.check_undamaged", lambda _policy: None)
    experiment = make_experiment(replay={"lag": 1})
    run_ref_logprobs(experiment, store, 0)
    with pytest.raises(TbrmError, match="large_model_on_cpu"):
        run_rollouts(experiment, store, 1)
    with pytest.raises(TbrmError, match="large_model_on_cpu"):
        run_ref_logprobs(make_experiment(reference={"policy": large}), store, 0, label="large")
    with pytest.raises(TbrmError, match="large_model_on_cpu"):
        run_train(experiment, store, 1)
    assert store.generations("small", "rollouts") == [0]


def test_evaluation_refuses_it(large: str) -> None:
    setting = setting_without_experiment()
    with pytest.raises(TbrmError, match="large_model_on_cpu"):
        LocalAnswerer(setting, PolicyRef("large", large))
    assert changed(setting, Changes(large_model_on_cpu=True)).large_model_on_cpu
    assert setting_of(make_experiment(large_model_on_cpu=True)).large_model_on_cpu
