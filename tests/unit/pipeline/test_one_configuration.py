"""An experiment is one configuration: what other settings made is refused, with the fields; a fork goes on from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from assets.experiment.source import check_whole
from assets.experiment.stages import BENCHMARK_SCORES
from evals.run.stage import run_evaluate
from evals.statistics.scores import is_measured, read_scores
from pipeline.cli.main import tbrm
from pipeline.config import Experiment, changed_experiment, load_experiment
from pipeline.errors import StoreError, TbrmError
from pipeline.policies.refs import check_undamaged, published, resolve_published, trained_policy_folder
from pipeline.reference import run_ref_logprobs
from pipeline.rewards.stage import run_rewards
from pipeline.run.configurations import (
    Fork,
    configuration_file,
    differences,
    fork_experiment,
    keep_configuration,
    owner_of,
    read_fork,
    spans,
)
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store, open_store
from pipeline.store.partition import parse_manifest
from tests.support.base_stores import NewStore, copies
from tests.support.tiny_store import make_experiment
from trainer.stages.base_policy import run_base_policy
from trainer.stages.train import run_train

# Responses are not right, but they differ in length, and so in reward: every setting of the training shows.
BY_LENGTH = {
    **{"verifier": "plain", "workers": 1, "audit_sample": 0},
    "components": {"length": 1.0, "length_free_tokens": 1, "length_max_tokens": 4},
}
EVALUATION = {"benchmarks": ["heldout"], "protocols": {"heldout": {"max_problems": 8, "max_tokens": 3}}}


def small(*overrides: str) -> Experiment:
    return changed_experiment(make_experiment(generations=4, rewards=BY_LENGTH, evaluation=EVALUATION), overrides)


def sample(experiment: Experiment, store: Store, generation: int) -> None:
    run_rollouts(experiment, store, generation)
    run_rewards(experiment, store, generation)
    run_ref_logprobs(experiment, store, generation)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with generation 0 trained, policy[1] scored, and nothing made from it."""
    store = open_store(str(tmp_path_factory.mktemp("begun") / "data"))
    run_base_policy(small(), store)
    sample(small(), store, 0)
    run_train(small(), store, 0)
    run_evaluate(small(), store, 1)
    return Path(store.base)


@pytest.fixture(scope="module")
def grown(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with generation 1 and the trajectories of generation 2."""
    store = open_store(str(shutil.copytree(begun, tmp_path_factory.mktemp("grown") / "data")))
    sample(small(), store, 1)
    run_train(small(), store, 1)
    sample(small(), store, 2)
    return Path(store.base)


@pytest.fixture
def begun_store(begun: Path, tmp_path: Path) -> Store:
    new: NewStore = copies(begun, tmp_path)
    return new("data")


@pytest.fixture
def grown_store(grown: Path, tmp_path: Path) -> Store:
    new: NewStore = copies(grown, tmp_path)
    return new("data")


def policy_id(store: Store, generation: int, name: str = "small") -> str:
    return str(published(store, name, generation)["policy_id"])


def everything(store: Store) -> dict[str, bytes]:
    """All files but locks and training states."""
    base = Path(store.base)
    kept = (p for p in base.rglob("*") if p.is_file() and p.name != "_lock" and "training_state" not in p.parts)
    return {str(p.relative_to(base)): p.read_bytes() for p in kept}


def test_a_manifest_names_the_file_of_the_configuration_and_keeps_its_hash(begun_store: Store) -> None:
    for table in ("prompts", "rollouts", "rewards", "ref_logprobs", "scores"):
        partition = begun_store.partition("small", table, 1 if table == "scores" else 0)
        manifest = partition.manifest()
        if table != "scores":
            assert manifest.configuration is not None
            assert load_experiment(configuration_file(begun_store, manifest.configuration)) == small()
        tree: dict[str, Any] = json.loads(manifest.to_json())
        tree.pop("configuration", None)
        assert parse_manifest(json.dumps(tree), "older").hash == manifest.hash
    assert keep_configuration(begun_store, small()) == keep_configuration(begun_store, small())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["training.objective=grpo"], ["trained_policy of generations 0 to 1", "training.objective: tbrm there, grpo"]),
        (["generations=8", "training.beta=0.2"], ["trained_policy", "training.beta: 0.1 there, 0.2 now"]),
        (["replay.window=2"], ["trained_policy", "replay.window: 1 there, 2 now"]),
        (["rollouts.temperature=0.5"], ["rollouts of generations 0 to 2", "rollouts.temperature: 1.0 there, 0.5 now"]),
        (["prompts.template=r1"], ["rollouts", "prompts.template: raw there, r1 now"]),
        (["rewards.verifier=exact_integer"], ["rewards of generations 0 to 2", "plain there, exact_integer now"]),
        (["reference.policy=/elsewhere"], ["ref_logprobs of generations 0 to 2", "reference.policy: base there"]),
        (["seed=6"], ["policy[0]", "seed: 5 there, 6 now"]),
        (
            ["evaluation.protocols.heldout.max_tokens=4"],
            [
                "scores of generation 1",
                "evaluation.protocols.heldout.max_tokens: 3 there, 4 now",
                "tbrm evaluate -e small",
            ],
        ),
        (["rollouts=none", "replay={window: 0, logged: [{name: a}]}"], ["rollouts.n: 2 there, none now"]),
    ],
)
def test_a_run_with_other_settings_is_refused_and_the_fields_are_named(
    grown: Path, overrides: list[str], told: list[str]
) -> None:
    with pytest.raises(StoreError) as error:
        check_whole(open_store(str(grown)), small(*overrides))
    for words in (*told, "--name NEW", "--fork-from G"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        *("generations=9", "description=another", "training.micro_batch_tokens=64", "training.checkpoint_every=1"),
        *("rollouts.batch_size=4", "rewards.workers=2", "policy.attention=sdpa", "evaluation.benchmarks=[heldout]"),
        "servers=['http://here/v1']",
    ],
)
def test_what_decides_nothing_may_change(grown: Path, override: str) -> None:
    check_whole(open_store(str(grown)), small(override))


def test_a_further_benchmark_is_measured(begun_store: Store) -> None:
    more = small(
        "evaluation.benchmarks=[heldout, heldout_sampled]", "evaluation.protocols.heldout_sampled.max_problems=4"
    )
    check_whole(begun_store, more)
    assert BENCHMARK_SCORES.is_finished(begun_store, small(), 0)
    assert not BENCHMARK_SCORES.is_finished(begun_store, more, 0)
    assert not run_evaluate(more, begun_store, 1).skipped
    assert BENCHMARK_SCORES.is_finished(begun_store, more, 0)
    assert set(read_scores(begun_store, "small", 1)) == {"heldout", "heldout_sampled"}


def test_scores_are_measured_by_another_protocol_where_it_is_asked_for(begun_store: Store) -> None:
    other = small("evaluation.protocols.heldout.max_tokens=2")
    with pytest.raises(StoreError, match="Add --replace to measure again"):
        run_evaluate(other, begun_store, 1)
    run_evaluate(other, begun_store, 1, replace=True)
    check_whole(begun_store, other)
    with pytest.raises(StoreError, match=r"heldout.max_tokens: 2 there, 3 now"):
        check_whole(begun_store, small())


def test_a_policy_of_an_older_version_is_compared_by_its_training_json(grown_store: Store) -> None:
    for path in Path(grown_store.base).rglob("_manifest.json"):
        tree = json.loads(path.read_text())
        tree.pop("configuration", None)
        path.write_text(json.dumps(tree))
    check_whole(grown_store, small())
    with pytest.raises(StoreError, match=r"training\.objective: tbrm there, brm now"):
        check_whole(grown_store, small("training.objective=brm"))


def test_a_stage_started_by_itself_makes_no_mixture(grown_store: Store) -> None:
    before = everything(grown_store)
    with pytest.raises(StoreError, match=r"trained_policy of generation 1:\n  training.objective: tbrm there, grpo"):
        run_train(small("training.objective=grpo"), grown_store, 2)
    run = small("rollouts.temperature=0.5")
    with pytest.raises(StoreError, match=r"already committed with other settings:\n  rollouts.temperature: 1.0 there"):
        run_rollouts(run, grown_store, 2)
    with pytest.raises(StoreError, match=r"rollouts of generation 1:\n  rollouts.temperature: 1.0 there, 0.5 now"):
        run_rollouts(run, grown_store, 2, replace=True)
    with pytest.raises(
        StoreError, match=r"committed with other settings:\n  rollouts.engine: transformers there, vllm"
    ):
        run_rollouts(small("rollouts.engine=vllm"), grown_store, 2)
    check_whole(grown_store, small("rollouts.engine=vllm"))
    assert everything(grown_store) == before


def test_labels_may_be_written_anew_one_generation_after_another(grown_store: Store) -> None:
    other = small("rewards.verifier=exact_integer")
    with pytest.raises(StoreError, match=r"rewards.verifier: plain there, exact_integer now\nAdd --replace"):
        run_rewards(other, grown_store, 0)
    for generation in (0, 1, 2):
        assert not run_rewards(other, grown_store, generation, replace=True).skipped
    check_whole(grown_store, other)


def test_a_training_that_fails_leaves_the_policy_as_it_was(begun_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_job: object) -> None:
        raise TbrmError("train[0] was stopped after update 1; run it again to go on from there")

    before = everything(begun_store)
    monkeypatch.setattr("trainer.stages.train.train_policy", stopped)
    for _ in range(2):  # the second time is no other than the first
        with pytest.raises(TbrmError, match="was stopped after update 1"):
            run_train(small("training.beta=0.2"), begun_store, 0, replace=True)
    assert everything(begun_store) == before
    check_undamaged(resolve_published(begun_store, "small", 1))
    monkeypatch.undo()
    assert run_train(small(), begun_store, 0).skipped


def test_scores_of_a_policy_that_another_one_replaced_are_not_passed_on(begun_store: Store) -> None:
    other, before = small("training.beta=0.2"), resolve_published(begun_store, "small", 1)
    old = before.policy_id
    assert is_measured(begun_store, "small", 1)
    run_train(other, begun_store, 0, replace=True)
    new = policy_id(begun_store, 1)
    assert new != old
    check_undamaged(resolve_published(begun_store, "small", 1))
    check_undamaged(before)  # whoever was given the old policy goes on with it
    kept = Path(begun_store.base) / "small/trained_policy/generation=0000.replaced-0/policy.json"
    assert json.loads(kept.read_text())["policy_id"] == old
    assert not is_measured(begun_store, "small", 1)
    with pytest.raises(StoreError, match=rf"scores of policy {old}, and policy\[1\] is now {new}: run `tbrm evaluate"):
        read_scores(begun_store, "small", 1)
    assert not run_evaluate(other, begun_store, 1).skipped
    assert read_scores(begun_store, "small", 1)["heldout"].policy_id == new


def test_killed_before_the_pointer_is_turned_the_old_policy_stands(
    begun_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    other, old = small("training.beta=0.2"), policy_id(begun_store, 1)
    monkeypatch.setattr("trainer.stages.train.publish_policy", killed)
    with pytest.raises(KeyboardInterrupt):
        run_train(other, begun_store, 0, replace=True)
    assert policy_id(begun_store, 1) == old
    check_undamaged(resolve_published(begun_store, "small", 1))
    assert read_scores(begun_store, "small", 1)["heldout"].policy_id == old
    monkeypatch.undo()
    assert run_train(other, begun_store, 0).skipped
    assert policy_id(begun_store, 1) != old
    check_undamaged(resolve_published(begun_store, "small", 1))


def test_a_policy_that_later_generations_stand_on_is_trained_to_the_same_bytes_or_not_at_all(
    grown_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = policy_id(grown_store, 2)
    folder = Path(resolve_published(grown_store, "small", 2).path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(TbrmError, match=r"damaged.*tbrm train.*--replace"):
        check_undamaged(resolve_published(grown_store, "small", 2))
    assert not run_train(small(), grown_store, 1, replace=True).skipped
    check_undamaged(resolve_published(grown_store, "small", 2))
    assert policy_id(grown_store, 2) == old

    before = everything(grown_store)
    shutil.rmtree(Path(grown_store.base) / "small/training_state/generation=0001")
    shutil.rmtree(Path(grown_store.base) / "small/training_state/generation=0000")
    with pytest.raises(StoreError, match=r"went on from the optimizer state of generation 0.*--fork-from 1"):
        run_train(small(), grown_store, 1, replace=True)
    assert everything(grown_store) == before


def test_other_data_do_not_train_a_policy_anew_that_others_stand_on(grown_store: Store) -> None:
    run_rewards(small("rewards.verifier=exact_integer"), grown_store, 1, replace=True)
    before = everything(grown_store)
    with pytest.raises(StoreError, match=r"rollouts of generation 2 of small came from policy\[2\].*data differ"):
        run_train(small(), grown_store, 1, replace=True)
    assert everything(grown_store) == before


def test_another_policy_is_not_put_under_later_generations(grown_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason that the bytes are others: here, a job that does not go on from the optimizer's state."""
    shutil.rmtree(Path(grown_store.base) / "small/training_state/generation=0001")
    monkeypatch.setattr("trainer.stages.train.carried", lambda *_: None)
    monkeypatch.setattr("trainer.stages.train._check_nothing_lost", lambda *_: None)
    before = everything(grown_store)
    with pytest.raises(StoreError, match=r"the training gave .*What was there is unchanged"):
        run_train(small(), grown_store, 1, replace=True)
    assert everything(grown_store) == before


def test_a_folder_with_another_policy_than_the_published_one_is_told(begun_store: Store) -> None:
    """As an earlier version left it, which kept the weights in the record and trained anew under a pointer."""
    folder, pointer = trained_policy_folder(begun_store, "small", 0), published(begun_store, "small", 1)
    shutil.copytree(Path(begun_store.base) / pointer["folder"], folder, dirs_exist_ok=True)
    path = Path(begun_store.base) / "small/policy/generation=0001/policy.json"
    path.write_text(json.dumps(pointer | {"folder": "small/trained_policy/generation=0000"}))
    check_undamaged(resolve_published(begun_store, "small", 1))
    assert run_train(small(), begun_store, 0).skipped
    tree = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(tree | {"policy_id": "another"}))
    with pytest.raises(StoreError, match=r"holds policy another, and policy\[1\] of small was published"):
        resolve_published(begun_store, "small", 1)


def test_a_fork_goes_on_from_a_policy_with_settings_of_its_own(grown_store: Store) -> None:
    with pytest.raises(StoreError, match=r"policy\[3\] of small is not published"):
        fork_experiment(grown_store, "other", "small", 3)
    before = {name: data for name, data in everything(grown_store).items() if name.startswith("small/")}
    for _ in range(2):  # again is no change
        fork = fork_experiment(grown_store, "other", "small", 1)
    assert fork == Fork("small", 1, policy_id(grown_store, 1)) == read_fork(grown_store, "other")
    assert [policy_id(grown_store, g, "other") for g in (0, 1)] == [policy_id(grown_store, g) for g in (0, 1)]
    with pytest.raises(StoreError, match="other was forked from small:1"):
        fork_experiment(grown_store, "other", "small", 0)
    with pytest.raises(StoreError, match="small is one already"):
        fork_experiment(grown_store, "small", "other", 1)

    other = small("name=other", "training.objective=brm", "replay.window=2", "rollouts.temperature=0.9")
    check_whole(grown_store, other)
    assert run_base_policy(other, grown_store).skipped
    sample(other, grown_store, 1)
    run_train(other, grown_store, 1)
    mix = json.loads((trained_policy_folder(grown_store, "other", 1) / "training.json").read_text())
    assert {(p["dataset"], p["generation"]) for p in mix["mix"]["parts"]} == {("other", 1), ("small", 0)}
    assert mix["carried"] is False
    assert owner_of(grown_store, "other", 0) == "small"
    sample(other, grown_store, 2)
    run_train(other, grown_store, 2)
    after = {name: data for name, data in everything(grown_store).items() if name.startswith("small/")}
    assert after == before

    shutil.rmtree(Path(grown_store.base) / "small")
    check_undamaged(resolve_published(grown_store, "other", 1))


def test_a_fork_with_ratios_does_not_train_on_what_top_k_sampled(tmp_path: Path) -> None:
    """The experiment that it was forked from sampled for an objective without ratios."""
    store, first = open_store(str(tmp_path)), small("rollouts.top_k=5")
    run_base_policy(first, store)
    sample(first, store, 0)
    run_train(first, store, 0)
    fork_experiment(store, "other", "small", 1)
    other = small("name=other", "training.objective=ppo", "replay.window=2")
    sample(other, store, 1)
    with pytest.raises(TbrmError, match=r"small/rollouts/generation=0000 was sampled with top_k 5, and objective ppo"):
        run_train(other, store, 1)
    assert not run_train(small("name=other", "training.objective=ppo"), store, 1).skipped


def test_words() -> None:
    assert spans([3, 0, 1, 2, 7]) == "0 to 3, 7"
    found = differences({"a": {"b": 1, "gone": 2}}, {"a": {"b": 1.5, "new": 3}}, ["a", "absent"])
    assert [str(one) for one in found] == ["a.b: 1 there, 1.5 now"]


def test_a_generation_is_measured_by_the_settings_that_made_it(begun_store: Store, tmp_path: Path) -> None:
    """Nothing is read from a YAML file: not the template, nor the seed, nor how long a response may be."""
    root = ["--root", begun_store.root]
    result = CliRunner().invoke(tbrm, ["evaluate", "small:1", "--json", *root], catch_exceptions=False)
    assert json.loads(result.stdout)["skipped"] is True
    whole = read_scores(begun_store, "small", 1)["heldout"]
    first = CliRunner().invoke(tbrm, ["evaluate", "small:1", "--max-problems", "4", "--json", *root])
    assert json.loads(first.stdout)["skipped"] is False
    there = read_scores(begun_store, "small", 1)
    assert {name: len(scores.problem_ids) for name, scores in there.items()} == {"heldout": 8, "heldout_first_4": 4}
    assert there["heldout"].responses == whole.responses
    again = CliRunner().invoke(tbrm, ["regrade", "small:1", "--label", "again", "--json", *root])
    assert json.loads(again.stdout)["rows"] == 12
    longer = [*root, "--set", "evaluation.protocols.heldout.max_tokens=2", "--replace", "--json"]
    assert json.loads(CliRunner().invoke(tbrm, ["evaluate", "small:1", *longer]).stdout)["skipped"] is False

    pointer = Path(begun_store.base) / "small/policy/generation=0001/policy.json"
    tree = json.loads(pointer.read_text())
    del tree["configuration"]
    pointer.write_text(json.dumps(tree))
    refused = CliRunner().invoke(tbrm, ["evaluate", "small:1", *root])
    assert refused.exit_code == 1
    assert "does not say which settings made small:1" in refused.output
    assert "--experiment small" in refused.output
