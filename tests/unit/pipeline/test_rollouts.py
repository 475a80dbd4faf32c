"""Sampling as a stage: the same bytes however it was interrupted or batched, and log-probs the trainer agrees with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Experiment
from pipeline.errors import ConfigError, StoreError, TbrmError
from pipeline.policies.refs import resolve_policy
from pipeline.reference import run_ref_logprobs
from pipeline.sampling.engines import Request, Sample, Sampling
from pipeline.sampling.engines.transformers_engine import TransformersEngine
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store
from tests.support.base_stores import NewStore
from tests.support.raw_server import raw_server, told


def shards(store: Store) -> dict[str, bytes]:
    folder = Path(store.partition("small", "rollouts", 0).path)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.parquet"))}


class Killed(BaseException):
    """Stands in for the end of the process."""


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    new_store: NewStore, small: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, store = new_store("a"), new_store("b")
    run_rollouts(small, undisturbed, 0)
    generate, calls = TransformersEngine.generate, list[int]()

    def dies_at_the_second_shard(
        engine: TransformersEngine, requests: Sequence[Request], sampling: Sampling, *rest: Any
    ) -> list[Sample]:
        calls.append(len(requests))
        if len(calls) == 2:
            raise Killed
        return generate(engine, requests, sampling, *rest)

    monkeypatch.setattr(TransformersEngine, "generate", dies_at_the_second_shard)
    with pytest.raises(Killed):
        run_rollouts(small, store, 0)
    assert list(shards(store)) == ["shard-00000.parquet"]
    report = run_rollouts(small, store, 0)
    assert len(calls) == 4, "the finished shard is not sampled again"
    assert report.rows == 48
    assert shards(store) == shards(undisturbed)


def test_a_response_does_not_depend_on_its_batch(new_store: NewStore, small: Experiment) -> None:
    assert small.rollouts is not None
    one_by_few = small.model_copy(update={"rollouts": small.rollouts.model_copy(update={"batch_size": 5})})
    tokens: list[list[list[int]]] = []
    for name, experiment in (("a", small), ("b", one_by_few)):
        store = new_store(name)
        run_rollouts(experiment, store, 0)
        tables = [table for _, table in store.partition("small", "rollouts", 0).iter_shards(["response_token_ids"])]
        tokens.append([row for table in tables for row in table["response_token_ids"].to_pylist()])
    assert tokens[0] == tokens[1]
    assert len({tuple(row) for row in tokens[0]}) > 20, "samples differ from each other"


def test_the_reference_scores_what_was_sampled_from_it_as_it_was_sampled(
    new_store: NewStore, small: Experiment
) -> None:
    """policy[0] is the reference, so Σ(log π_behaviour - log π_ref) is 0 for every response of generation 0."""
    store = new_store("a")
    run_rollouts(small, store, 0)
    run_ref_logprobs(small, store, 0)
    worst = 0.0
    for index, rollouts in store.partition("small", "rollouts", 0).iter_shards(["trajectory_id", "behavior_logprobs"]):
        reference = store.partition("small", "ref_logprobs", 0).read_shard(index)
        assert reference["trajectory_id"] == rollouts["trajectory_id"]
        for sampled, scored in zip(
            rollouts["behavior_logprobs"].to_pylist(), reference["ref_token_logprobs"].to_pylist(), strict=True
        ):
            worst = max(worst, abs(float(np.sum(sampled) - np.sum(scored))))
    assert worst < 1e-4


def test_a_committed_generation_is_not_sampled_again_and_not_overwritten(
    new_store: NewStore, small: Experiment
) -> None:
    store = new_store("a")
    run_rollouts(small, store, 0)
    assert run_rollouts(small, store, 0).skipped
    assert small.rollouts is not None
    hotter = small.model_copy(update={"rollouts": small.rollouts.model_copy(update={"temperature": 1.5})})
    before = shards(store)
    with pytest.raises(StoreError, match="--replace"):
        run_rollouts(hotter, store, 0)
    assert shards(store) == before


def test_what_is_missing_is_named(new_store: NewStore, small: Experiment) -> None:
    store = new_store("a")
    with pytest.raises(StoreError, match=r"the newest is policy\[0\]: `tbrm run small`"):
        run_rollouts(small, store, 1)
    for generation in (2, 99):  # it has two; a command that names the one before would lead on without end
        with pytest.raises(ConfigError, match=f"generations 0 to 1 .*, no {generation}"):
            run_rollouts(small, store, generation)
    with pytest.raises(TbrmError, match="rollouts: none"):
        run_rollouts(small.model_copy(update={"rollouts": None}), store, 0)


def test_greedy_and_truncated_samples(new_store: NewStore, small: Experiment) -> None:
    from pipeline.policies.load_save import load_tokenizer
    from pipeline.sampling.engines import load_engine

    assert small.rollouts is not None
    policy = resolve_policy(new_store("a"), small, 0)
    tokenizer = load_tokenizer(policy.path)
    engine = load_engine(small.rollouts, small.policy, policy, tokenizer)
    prompt = tokenizer.encode("12+45=", add_special_tokens=False)
    first, second = engine.generate([Request(prompt, 1), Request(prompt, 2)], Sampling(0.0, 1.0, 0, 3))
    engine.close()
    assert first == second
    assert len(first.token_ids) <= 3
    assert first.finish_reason == ("stop" if first.token_ids[-1] == tokenizer.eos_token_id else "length")
    assert len(first.logprobs) == len(first.token_ids)
    assert all(logprob <= 0 for logprob in first.logprobs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": [3, 999_999]}, "token id 999999 is outside the vocabulary"),
        ({"logprobs": {"token_logprobs": [-1.0, 5.0]}}, "above 0"),
        ({"token_ids": [3] * 5_000, "logprobs": {"token_logprobs": [-1.0] * 5_000}}, "5,000 tokens"),
    ],
)
def test_nothing_of_a_hostile_server_is_stored(
    new_store: NewStore, small: Experiment, changes: dict[str, Any], message: str
) -> None:
    store = new_store("asks")
    good = {"token_ids": [3, 2], "logprobs": {"token_logprobs": [-1.0, -1.0]}, "finish_reason": "stop"}
    assert small.rollouts is not None
    with raw_server(told({"choices": [good | changes]})) as server:
        rollouts = small.rollouts.model_copy(update={"policy": f"{server.url}#tiny", "batch_size": 4})
        with pytest.raises(TbrmError, match=message):
            run_rollouts(small.model_copy(update={"rollouts": rollouts}), store, 0)
    assert not store.partition("small", "rollouts", 0).is_committed()
    assert shards(store) == {}
