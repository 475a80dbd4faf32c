"""What comes from a server, a model folder, a browser or a query: taken as it should be, or refused with a message."""

import asyncio
import functools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from assets.app.guard import Access, guarded
from pipeline.browse.sql import run_sql
from pipeline.config.policy import PolicyConfig
from pipeline.errors import TbrmError
from pipeline.policies.load_save import load_config, load_model, load_tokenizer
from pipeline.policies.refs import ServedPolicy
from pipeline.policies.tiny import save_tiny_arith
from pipeline.sampling import endpoint
from pipeline.sampling.engines import Request, Sampling
from pipeline.sampling.engines.openai_engine import OpenAIEngine
from pipeline.store import Store, open_store
from tests.property.mutation import POISON, mutated, tree_with_damage
from tests.support.raw_server import http, raw_server
from tests.support.tiny_tokenizers import characters
from tests.unit.replay.replay_store import write_generation

PROMPT, MOST = [4, 13, 5], 5
CHOICE: dict[str, Any] = {
    "index": 0,
    "text": "3",
    "token_ids": [6, 2],
    "logprobs": {"token_logprobs": [-0.5, -0.25]},
    "finish_reason": "stop",
}
ANSWER = json.dumps({"choices": [CHOICE]}).encode()
ANSWERS = mutated(ANSWER) | tree_with_damage(CHOICE).map(
    lambda choice: json.dumps({"choices": [choice]}).encode("utf-8", "surrogatepass")
)


@given(ANSWERS)
def test_answers_of_a_server(body: bytes) -> None:
    endpoint._FIRST_PAUSE_S = 0.001  # pyright: ignore[reportPrivateUsage]
    tokenizer = characters()
    with raw_server(lambda write: write(http(body))) as server:
        engine = OpenAIEngine(ServedPolicy("a@b", server.url, "a", ()), 1, [2], tokenizer, len(tokenizer))
        try:
            sample = engine.generate([Request(PROMPT, 7)], Sampling(1.0, 1.0, 0, MOST))[0]
        except TbrmError as error:
            assert len(str(error)) > 10
            return
        finally:
            engine.close()
    assert 1 <= len(sample.token_ids) == len(sample.logprobs) <= MOST
    assert all(0 <= number < len(tokenizer) for number in sample.token_ids)
    assert all(math.isfinite(value) and value <= 0.0 for value in sample.logprobs)
    assert sample.finish_reason in ("stop", "length")


@functools.cache
def whole_model() -> dict[str, bytes]:
    """Files of a model folder."""
    with tempfile.TemporaryDirectory() as name:
        save_tiny_arith(Path(name), seed=1)
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


@given(st.data())
def test_files_of_a_model(data: st.DataObject) -> None:
    files = dict(whole_model())
    name = data.draw(st.sampled_from(sorted(files)))
    # Of the weights only what comes before the numbers: any numbers are weights.
    head = files[name][:4_000] if name.endswith(".safetensors") else files[name]
    files[name] = data.draw(mutated(head)) + files[name][len(head) :]
    with tempfile.TemporaryDirectory() as folder:
        for each, content in files.items():
            (Path(folder) / each).write_bytes(content)
        try:
            load_config(folder)
            load_tokenizer(folder).encode("12+34=", add_special_tokens=False)
            load_model(folder, PolicyConfig(base=folder, dtype="float32"))
        except TbrmError as error:
            assert folder in str(error)


TOKEN = "a-token-of-the-tests"
ACCESS = Access(TOKEN)
WORDS = ("127.0.0.1:3000", "localhost", "attacker.example", "null", "http://127.0.0.1:3000", "https://localhost")
VALUES = st.sampled_from(
    [*WORDS, "application/json", "text/plain", "same-origin", "cross-site", "navigate", f"Bearer {TOKEN}"]
) | st.text(st.characters(max_codepoint=255), max_size=20)
HEADERS = st.lists(
    st.tuples(st.sampled_from(["Host", "Origin", "Content-Type", "Sec-Fetch-Site", "Authorization", "Cookie"]), VALUES),
    max_size=6,
)


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get"]),
    st.sampled_from(["/graphql", "/graphql/", "//graphql", "/", "/notebook", "/report_asset_check/a", "/graphql\n"])
    | st.text(max_size=12).map("/".__add__),
    st.sampled_from(["", "query=mutation"]),
    HEADERS,
    st.booleans(),
)
def test_requests_to_the_ui(method: str, path: str, query: str, headers: list[tuple[str, str]], honest: bool) -> None:
    """Whatever reaches Dagster's app has the token and our host, and where it could change something it is JSON."""
    if honest:
        headers = [("Host", "127.0.0.1:3000"), ("Authorization", f"Bearer {TOKEN}"), *headers]
    reached: list[Scope] = []
    told: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        reached.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        told.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": raw}
    asyncio.run(guarded(app, ACCESS)(scope, receive, send))
    assert told[0]["status"] in (200, 401, 403, 405, 415)
    if not reached:
        return
    given_of = {name: [v for n, v in headers if n == name] for name, _ in headers}
    (host,) = given_of["Host"]
    assert host.lower().partition(":")[0] in ("127.0.0.1", "localhost")
    assert all(origin.lower().partition("://")[2] == host.lower() for origin in given_of.get("Origin", []))
    # A Host or an Origin of a page is compared; the token is what no page has.
    assert any(TOKEN in value for value in (*given_of.get("Authorization", []), *given_of.get("Cookie", [])))
    if method not in ("GET", "HEAD"):
        assert method == "POST"
        assert [kind.partition(";")[0].strip().lower() for kind in given_of["Content-Type"]] == ["application/json"]
    elif path.rstrip("\n") == "/graphql":
        assert not query


@functools.cache
def queried() -> Store:
    store = open_store("memory://fuzzed-sql")
    write_generation(store, "exp", 0)
    return store


QUERIES = (
    b"select generation, count(*) from rollouts where reward > 0.5 group by 1 order by 2 limit 3",
    b"copy (select * from rewards) to 'there.csv'; attach 'x' as y; select * from read_text('/etc/passwd')",
    b"with recursive t(n) as (values (1) union all select n + 1 from t where n < 5) select * from t, rewards",
)


@given(st.sampled_from(QUERIES).flatmap(mutated) | st.lists(st.sampled_from(POISON), max_size=4).map(b" ".join))
def test_queries_of_the_store(query: bytes) -> None:
    store = queried()
    before = {path: store.read_bytes(path) for path in store.fs.find(store.base)}
    try:
        run_sql(store, query.decode("utf-8", "surrogateescape"), 10)
    except TbrmError as error:
        assert str(error)
    assert {path: store.read_bytes(path) for path in store.fs.find(store.base)} == before
    assert not Path("there.csv").exists()
