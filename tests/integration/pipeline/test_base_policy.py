"""policy[0]: an ordinary Hugging Face folder, made once, resumed after a kill, refused under other settings."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config import Experiment
from pipeline.config.policy import PolicyConfig
from pipeline.errors import StoreError
from pipeline.policy import pointer_path, read_policy_json, resolve_policy
from pipeline.store import Store
from trainer.base_policy import run_base_policy

NewStore = Callable[[str], Store]


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
    with pytest.raises(StoreError, match="another name"):
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
