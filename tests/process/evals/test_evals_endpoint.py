"""A policy behind a server gives the scores of the same policy in a folder, and survives what servers do."""

from collections.abc import Iterator

import pytest

from evals.run.plan import Changes, changed, plan_entries, setting_of
from evals.run.stage import evaluate
from evals.run.targets import target_of
from evals.statistics.scores import read_scores
from pipeline.errors import TbrmError
from pipeline.sampling import endpoint
from pipeline.store import Store
from tests.support.evals_store import publish, tiny_experiment
from tests.support.openai_server import Served, serve


@pytest.fixture
def server(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Served]]:
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE_S", 0.01)
    with serve(publish(store, 0, seed=0)) as running:
        yield running


def test_a_server_scores_like_the_folder_it_serves(
    store: Store, server: tuple[str, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(endpoint.API_KEY, "secret")
    setting = setting_of(tiny_experiment().model_copy(update={"servers": (server[0],)}))
    entries = plan_entries(setting, ["heldout"])
    here = target_of(store, "exp:0")
    there = target_of(store, server[0], [server[0]])
    assert there.policy.policy_id.startswith("tiny@127.0.0.1:")
    texts: list[list[str]] = []
    for target in (here, there):
        report = evaluate(setting, store, target, entries)
        assert report.rows == 16
        name = read_scores(store, target.dataset, target.generation)["heldout"].responses
        dataset, table, _ = name.rsplit("/", 2)
        rows = [shard for _, shard in store.partition(dataset, table, target.generation).iter_shards()]
        texts.append([text for shard in rows for text in shard["response_text"].to_pylist()])
        nulls = sum(shard["response_token_ids"].null_count for shard in rows)
        assert nulls == (16 if target is there else 0)
    assert texts[0] == texts[1]
    assert {request["key"] for request in server[1].seen} == {"Bearer secret"}
    assert evaluate(setting, store, there, entries).skipped


def test_a_server_that_the_experiment_does_not_name_gets_no_key(
    store: Store, server: tuple[str, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(endpoint.API_KEY, "secret")
    setting = setting_of(tiny_experiment())
    evaluate(setting, store, target_of(store, server[0]), plan_entries(setting, ["heldout"]))
    assert {request["key"] for request in server[1].seen} == {None}


def test_overload_and_half_answers_are_tried_again(store: Store, server: tuple[str, Served]) -> None:
    server[1].faults = [(503, b"busy"), (429, b"slow down"), (200, b'{"choices": [')]
    setting = setting_of(tiny_experiment())
    report = evaluate(setting, store, target_of(store, server[0]), plan_entries(setting, ["heldout"]))
    assert report.rows == 16
    assert len(server[1].seen) == 16 + 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ((400, b"max_tokens is too large"), "HTTP 400 max_tokens is too large.*finished shards are kept"),
        ((200, b"[]"), "does not answer as an OpenAI-compatible server: the whole: Input should be an object"),
        ((200, b'{"choices": []}'), "does not answer as .*choices: List should have at least 1 item"),
    ],
)
def test_what_trying_again_cannot_mend_is_told(
    store: Store, server: tuple[str, Served], fault: tuple[int, bytes], message: str
) -> None:
    server[1].faults = [fault] * 16
    setting = setting_of(tiny_experiment())
    with pytest.raises(TbrmError, match=message):
        evaluate(setting, store, target_of(store, server[0]), plan_entries(setting, ["heldout"]))


def test_the_chat_template_is_the_servers(store: Store, server: tuple[str, Served]) -> None:
    setting = changed(setting_of(tiny_experiment()), Changes("chat", 3, 4))
    evaluate(setting, store, target_of(store, f"{server[0]}#tiny"), plan_entries(setting, ["heldout"]))
    assert {request["path"] for request in server[1].seen} == {"/v1/chat/completions"}
    assert server[1].seen[0]["max_tokens"] == 3
    assert len(server[1].seen) == 4


def test_one_of_several_models_must_be_named(store: Store, server: tuple[str, Served]) -> None:
    server[1].models = ["tiny", "other"]
    with pytest.raises(TbrmError, match="models tiny, other: name one"):
        target_of(store, server[0])


def test_nobody_answers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE_S", 0.001)
    with pytest.raises(TbrmError, match="refused"):
        target_of(store, "http://127.0.0.1:9/v1")


def test_what_is_no_policy_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TbrmError, match=r"neither EXPERIMENT:GENERATION nor a policy"):
        target_of(store, "nobody/nothing")
