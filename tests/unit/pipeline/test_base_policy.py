"""policy[0]: an ordinary Hugging Face folder, made once, resumed after a kill, refused under other settings."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config import Experiment, build_experiment
from pipeline.config.policy import PolicyConfig
from pipeline.errors import StoreError
from pipeline.policies.refs import pointer_path, read_policy_json, resolve_policy
from pipeline.prompts import load_problems
from pipeline.store import Store, open_store
from tests.support.base_stores import NewStore
from tests.unit.pipeline.conftest import TREE
from trainer.stages.base_policy import run_base_policy


def test_it_is_an_ordinary_folder_with_parents(new_store: NewStore, small: Experiment) -> None:
    policy = resolve_policy(new_store("a"), small, 0)
    model = AutoModelForCausalLM.from_pretrained(policy.path)
    tokenizer = AutoTokenizer.from_pretrained(policy.path)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    ids = tokenizer.encode("12+45=", add_special_tokens=False)
    assert tokenizer.decode(ids) == "12+45="
    assert any(
        parent.startswith("logged/small_behaviour/rollouts") for parent in read_policy_json(policy.path)["parents"]
    )


def test_again_is_no_work_and_other_settings_are_refused(new_store: NewStore, small: Experiment) -> None:
    store = new_store("a")
    assert run_base_policy(small, store).skipped
    with pytest.raises(
        StoreError, match=r"seed: 5 there, 6 now\nStart another experiment: `tbrm run small .*--name NEW`"
    ):
        run_base_policy(small.model_copy(update={"seed": 6}), store)


def test_a_torn_pointer_is_named_and_can_be_deleted(new_store: NewStore, small: Experiment) -> None:
    store = new_store("torn")
    run_base_policy(small, store)
    pointer = Path(pointer_path(store, small.name, 0))
    whole = pointer.read_bytes()
    pointer.write_bytes(whole[:-6])
    with pytest.raises(StoreError, match=r"policy.json is damaged .*delete it and run the stage"):
        run_base_policy(small, store)
    pointer.unlink()
    run_base_policy(small, store)
    assert pointer.read_bytes() == whole


def test_a_log_of_other_problems_is_refused(new_store: NewStore, small: Experiment) -> None:
    """Its held-out problems are not ours: imitating it would show the model what it is tested on."""
    store = new_store("a")
    with pytest.raises(StoreError, match="held out"):
        run_base_policy(small.model_copy(update={"name": "other", "seed": 6}), store)


def test_without_a_warm_start_it_is_the_base_model(new_store: NewStore, small: Experiment) -> None:
    plain = PolicyConfig(base="builtin:tiny-arith", dtype="float32")
    store = new_store("a")
    report = run_base_policy(small.model_copy(update={"name": "plain", "policy": plain}), store)
    assert report.rows == 0
    assert resolve_policy(store, small.model_copy(update={"name": "plain"}), 0).policy_id == report.metrics["policy_id"]


def test_any_prompt_set_can_be_learned_by_the_embedded_policy_with_words(tmp_path: Path) -> None:
    """Its tokenizer decodes every problem back; the behaviour policy's mistakes are answers to other problems."""
    tree = TREE | {
        "name": "family",
        "policy": {
            "base": "builtin:tiny-words",
            "dtype": "float32",
            "warm_start": {
                "logged": "relatives",
                "trajectories": 400,
                "steps": 2,
                "batch": 8,
                "behaviour_accuracy": 0.7,
            },
        },
        "prompts": {
            "source": "reasoning_gym",
            "reasoning_gym": {"tasks": ["family_relationships"], "size": 60},
            "template": "raw",
            "per_generation": 24,
        },
    }
    family, store = build_experiment(tree, "test"), open_store(str(tmp_path))
    run_base_policy(family, store)
    tokenizer = AutoTokenizer.from_pretrained(resolve_policy(store, family, 0).path)
    for problem in load_problems(family.prompts, family.seed):
        for text in (problem.text, problem.answer):
            assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    answers = {row["prompt_id"]: row["answer"] for row in rows(store, "prompts")}
    said = [(row["response_text"], answers[row["prompt_id"]]) for row in rows(store, "rollouts")]
    assert {text for text, _ in said} <= set(answers.values())
    assert 0.6 < sum(text == answer for text, answer in said) / len(said) < 0.8
    settings = tree["prompts"]
    assert run_base_policy(
        build_experiment(tree | {"prompts": settings | {"per_generation": 12}}, "test"), store
    ).skipped
    with pytest.raises(StoreError, match=r"prompts.template: raw there, r1 now"):
        run_base_policy(build_experiment(tree | {"prompts": settings | {"template": "r1"}}, "test"), store)


def rows(store: Store, table: str) -> list[dict[str, Any]]:
    return [row for _, shard in store.partition("logged/relatives", table).iter_shards() for row in shard.to_pylist()]
