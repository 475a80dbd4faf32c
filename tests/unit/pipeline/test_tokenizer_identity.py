"""Whose token ids a table holds: another tokenizer is refused wherever the ids would meet a model or a verifier."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import normalizers

from pipeline.config import Experiment
from pipeline.config.policy import WarmStart
from pipeline.errors import StoreError
from pipeline.logged.scripted import write_behaviour_log
from pipeline.policies.load_save import check_ids, load_tokenizer, tokenizer_info
from pipeline.policies.refs import policy_tokenizer, publish_policy, published_tokenizer, resolve_policy
from pipeline.reference import REFERENCE_PARENT, reference_id, reference_label, run_ref_logprobs
from pipeline.replay.mix import resolve_mix
from pipeline.rewards.stage import run_rewards
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store
from pipeline.store.partition import parse_manifest
from tests.support.tiny_store import make_experiment, make_store
from tests.support.tiny_tokenizers import DIGITS, characters, merging
from tests.unit.replay.replay_store import reference_rows, reward_rows, rollout_rows, write_table
from trainer.stages.train import run_train
from trainer.stages.warm_start import run_imitation

PERMUTED = "1023456789+=-\n"
"""0 and 1 have changed places: every id is a digit still, and half of the sums are others."""


def test_permuted_digits_and_other_rules_for_splitting_are_another_tokenizer() -> None:
    same = characters()
    one, other = [("1", "2"), ("2", "3")], [("2", "3"), ("1", "2")]
    infos = [
        tokenizer_info(tokenizer)
        for tokenizer in (
            same,
            characters(PERMUTED),
            characters(DIGITS + "*"),
            characters(normalizer=normalizers.Replace("1", "7")),
            merging(one),
            merging(other),
            merging(one, lowercase=True),
        )
    ]
    assert len(set(infos)) == len(infos)
    assert infos[4].vocabulary == infos[5].vocabulary == infos[6].vocabulary


def test_what_does_not_change_the_ids_is_the_same_tokenizer(tmp_path: Path) -> None:
    info = tokenizer_info(characters())
    assert tokenizer_info(characters(template="{{ messages }}")) == info
    saved = characters()
    saved.save_pretrained(tmp_path / "here")
    assert tokenizer_info(load_tokenizer(str(tmp_path / "here"))) == info
    # as other versions of transformers write the same: another class name, other settings, no padding side
    config = tmp_path / "here" / "tokenizer_config.json"
    tree = json.loads(config.read_text())
    tree |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "clean_up_tokenization_spaces": True,
    }
    tree.pop("backend", None)
    config.write_text(json.dumps(tree))
    assert tokenizer_info(load_tokenizer(str(tmp_path / "here"))) == info
    # a base model and its chat variant end with other tokens
    chat = characters()
    chat.eos_token = "<pad>"
    assert tokenizer_info(chat) == info
    # truncation that was on when it was saved
    limited: Any = characters()
    limited.backend_tokenizer.enable_truncation(2)
    limited.backend_tokenizer.enable_padding(length=16)
    limited.save_pretrained(tmp_path / "limited")
    assert tokenizer_info(load_tokenizer(str(tmp_path / "limited"))) == info


def test_a_vocabulary_with_holes_ends_at_its_highest_id() -> None:
    tokenizer = characters()
    tokenizer.add_tokens(["<think>"])
    assert tokenizer_info(tokenizer).size == len(tokenizer)


@pytest.mark.parametrize(
    ("prompts", "responses", "rows", "message"),
    [
        (
            [[1], [2, 17]],
            [[3], [4]],
            None,
            r"file row 1, field 'prompt_token_ids': token id 17 .* of 17 that the policy",
        ),
        ([[1], [2]], [[3, 4], [5, 6, 999_999]], [10, 40], "file row 40, field 'response_token_ids': token id 999999"),
        ([[1], []], [[-1], [4]], [10, 40], "file row 10, field 'response_token_ids': token id -1"),
        ([[], []], [[], [17]], None, "file row 1, field 'response_token_ids': token id 17"),
    ],
)
def test_an_id_beyond_the_vocabulary_is_named(
    prompts: list[list[int]], responses: list[list[int]], rows: list[int] | None, message: str
) -> None:
    tokens = pa.list_(pa.int32())
    columns = {"prompt_token_ids": pa.array(prompts, tokens), "response_token_ids": pa.array(responses, tokens)}
    table = pa.table(columns)
    for chunked in (table, pa.concat_tables([table.slice(0, 1), table.slice(1)])):
        with pytest.raises(StoreError, match=message):
            check_ids(chunked, 17, "file", "the policy", rows)


def test_rows_without_tokens_are_no_error() -> None:
    tokens = pa.list_(pa.int32())
    empty = pa.array([], tokens)
    check_ids(pa.table({"prompt_token_ids": empty, "response_token_ids": empty}), 17, "file", "the policy")


# The stages, on a store with a real policy.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Generation 0 of `small` with rewards, and the logged data sets `same` and `permuted` of two tokenizers."""
    store = make_store(tmp_path_factory.mktemp("made"))
    for name, order in (("same", DIGITS), ("permuted", PERMUTED)):
        write_behaviour_log(make_experiment(), name, 16, 0.5, store, characters(order))
    return store


def with_logged(name: str, **changes: Any) -> Experiment:
    return make_experiment(replay={"window": 1, "logged": [{"name": name}]}, **changes)


def write_labels(store: Store, experiment: Experiment, dataset: str) -> None:
    """Rewards and reference log-probs as an earlier version left them, which looked at no tokenizer."""
    run_ref_logprobs(experiment, store, 0)
    rollouts, reference = store.partition(dataset, "rollouts"), reference_id(store, experiment)
    rows = rollouts.read_shard(0).to_pylist()
    parents = {rollouts.name: rollouts.manifest().hash}
    write_table(store, dataset, "rewards", 0, [reward_rows(rows)], parents)
    scored = [reference_rows(rows, reference)]
    write_table(
        store, dataset, f"ref_logprobs@{reference_label(reference)}", 0, scored, parents | {REFERENCE_PARENT: reference}
    )


def test_manifests_and_policies_say_whose_ids_they_hold(store: Store) -> None:
    own = tokenizer_info(characters())
    for dataset, table, made_by in (
        ("small", "prompts", own),
        ("small", "rollouts", own),
        ("small", "rewards", None),
        ("logged/same", "prompts", own),
        ("logged/same", "rollouts", own),
        ("logged/permuted", "rollouts", tokenizer_info(characters(PERMUTED))),
    ):
        assert store.partition(dataset, table).manifest().tokenizer == made_by
    folder = Path(resolve_policy(store, make_experiment(), 0).path)
    assert policy_tokenizer(str(folder)) == own == published_tokenizer(store, "small", 0)
    assert json.loads((folder / "policy.json").read_text())["tokenizer"]["size"] == 17


def test_a_manifest_from_before_tokenizers_were_noted_is_read_as_it_was(store: Store) -> None:
    manifest = store.partition("small", "rewards").manifest()
    assert "tokenizer" not in manifest.to_json()
    noted = store.partition("small", "rollouts").manifest()
    text = noted.to_json()
    assert parse_manifest(text, "here") == noted
    with pytest.raises(StoreError, match="does not match its own hash"):
        parse_manifest(text.replace(noted.tokenizer.vocabulary, "0" * 16), "here")  # type: ignore[union-attr]
    with pytest.raises(StoreError, match="is torn"):
        parse_manifest(text.replace('"splitting"', '"slitting"'), "here")


DIFFERS = r"its token ids are those of another tokenizer than .* has: its vocabulary is \w{16} of 17 tokens, that of"


def test_another_tokenizer_is_refused_by_labels_reference_mix_and_imitation(store: Store, tmp_path: Path) -> None:
    experiment = with_logged("permuted")
    for run in (run_rewards, run_ref_logprobs):
        with pytest.raises(StoreError, match=rf"logged/permuted/rollouts/generation=0000: {DIFFERS}.*--tokenizer"):
            run(experiment, store, 0, "logged/permuted")
    write_labels(store, experiment, "logged/permuted")
    for run in (lambda: resolve_mix(store, experiment, 0), lambda: run_train(experiment, store, 0)):
        with pytest.raises(StoreError, match=rf"logged/permuted/rollouts/generation=0000: {DIFFERS} policy\[0\]"):
            run()
    warm = WarmStart(logged="permuted", steps=1, batch=4)
    start = Path(resolve_policy(store, experiment, 0).path)
    with pytest.raises(StoreError, match=DIFFERS):
        run_imitation(experiment, store, start, tmp_path / "out", warm)
    assert not (tmp_path / "out").exists()


def test_the_same_tokenizer_passes_all_of_them(store: Store) -> None:
    experiment = with_logged("same")
    for run in (run_rewards, run_ref_logprobs):
        assert run(experiment, store, 0, "logged/same").rows == 16
    run_ref_logprobs(experiment, store, 0)
    assert {source.dataset for source in resolve_mix(store, experiment, 0).sources} == {"small", "logged/same"}


@pytest.fixture
def model(store: Store, tmp_path: Path) -> Callable[[str], str]:
    """Makes a model folder of the tokenizer with this order of characters, as somebody else would have saved it."""

    def make(order: str) -> str:
        folder = tmp_path / "model"
        shutil.copytree(resolve_policy(store, make_experiment(), 0).path, folder)
        (folder / "policy.json").unlink()
        characters(order).save_pretrained(folder)
        return str(folder)

    return make


def test_a_teacher_or_a_reference_with_another_tokenizer_is_refused(store: Store, model: Callable[[str], str]) -> None:
    folder = model(PERMUTED)
    rollouts = make_experiment().rollouts
    assert rollouts is not None
    teacher = make_experiment(generations=3, rollouts=rollouts.model_dump() | {"policy": folder})
    publish_policy(store, "small", 1, resolve_policy(store, teacher, 0).path, {})
    with pytest.raises(StoreError, match=rf"rollouts.policy {folder}: {DIFFERS} policy\[1\]"):
        run_rollouts(teacher, store, 1)
    assert not store.partition("small", "prompts", 1).is_committed()
    with pytest.raises(StoreError, match=rf"small/rollouts/generation=0000: {DIFFERS} the reference"):
        run_ref_logprobs(make_experiment(reference={"policy": folder}), store, 0, label="other")


def test_a_teacher_of_the_same_family_samples(store: Store, model: Callable[[str], str]) -> None:
    rollouts = make_experiment().rollouts
    assert rollouts is not None
    teacher = make_experiment(name="taught", rollouts=rollouts.model_dump() | {"policy": model(DIGITS)})
    publish_policy(store, "taught", 0, resolve_policy(store, make_experiment(), 0).path, {})
    assert run_rollouts(teacher, store, 0).rows == 16


def test_ids_beyond_the_vocabulary_meet_no_model(store: Store, tmp_path: Path) -> None:
    """Of a data set whose manifest says nothing of a tokenizer."""
    rows = rollout_rows("logged/old", 0, 0, 2, 2)
    rows[2]["response_token_ids"] = [3, 999_999]
    write_table(store, "logged/old", "rollouts", 0, [rows], {})
    where = (
        r"logged/old/rollouts/generation=0000/shard-00000.parquet row 2, field 'response_token_ids': token id 999999"
    )
    experiment = with_logged("old")
    with pytest.raises(StoreError, match=rf"{where} is outside the vocabulary of 17 that the reference"):
        run_ref_logprobs(experiment, store, 0, "logged/old")
    write_labels(store, experiment, "logged/old")
    with pytest.raises(StoreError, match=rf"{where} is outside the vocabulary of 17 that the policy"):
        run_train(experiment, store, 0)
    start = Path(resolve_policy(store, experiment, 0).path)
    with pytest.raises(StoreError, match=rf"{where} is outside the vocabulary of 17 that the base model"):
        run_imitation(experiment, store, start, tmp_path / "out", WarmStart(logged="old", steps=1, batch=4))
