"""A store that the real stages filled: policy[0] sampled, labelled, trained and evaluated; policy[1] evaluated."""

from pathlib import Path

import pytest
from report_store import HOSTILE, TREE

from evals.responses import Sampler
from evals.stage import run_evaluate
from pipeline.builtin import save_tiny_arith
from pipeline.config import Experiment, build_experiment
from pipeline.policy import publish_policy, write_policy_json
from pipeline.ref_logprobs import run_ref_logprobs
from pipeline.rewards.stage import run_rewards
from pipeline.rollouts import run_rollouts
from pipeline.store import Store, open_store
from trainer.stage import run_train


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    return build_experiment(TREE, "test")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> Store:
    """Generation 0 is whole; policy[1] has scores, and answers to benchmarks and prompts that attack the page."""
    store = open_store(str(tmp_path_factory.mktemp("report") / "root"))
    base = Path(store.base) / "exp" / "base"
    base.mkdir(parents=True)
    save_tiny_arith(base, seed=0)
    write_policy_json(base, {})
    publish_policy(store, "exp", 0, base, {})
    run_evaluate(experiment, store, 0)
    run_rollouts(experiment, store, 0)
    run_rewards(experiment, store, 0)
    run_ref_logprobs(experiment, store, 0)
    run_train(experiment, store, 0)
    publish_policy(store, "exp", 1, Path(store.base) / "exp" / "trained_policy" / "generation=0000", {})
    with pytest.MonkeyPatch.context() as patched:
        sample = Sampler.sample

        def attacking(self: Sampler, entry, problems):  # type: ignore[no-untyped-def]
            rows = sample(self, entry, problems)
            place = rows.schema.get_field_index("response_text")
            return rows.set_column(place, "response_text", [[HOSTILE] * len(rows)])

        patched.setattr(Sampler, "sample", attacking)
        run_evaluate(experiment, store, 1)
    _attacking_rollouts(store)
    return store


def _attacking_rollouts(store: Store) -> None:
    """Rollouts of generation 1: those of generation 0 with another text."""
    rows = store.partition("exp", "rollouts", 0).read_shard(0)
    place = rows.schema.get_field_index("response_text")
    with store.partition("exp", "rollouts", 1).writer("attack", {}) as writer:
        writer.write(0, rows.set_column(place, "response_text", [[HOSTILE] * len(rows)]))
        writer.commit(1)
