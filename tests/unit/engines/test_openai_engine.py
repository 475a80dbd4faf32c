"""A server's answers are a log like any other: what does not hold is refused, and the key stays with the named host."""

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.config.policy import ServerModel
from pipeline.errors import TbrmError
from pipeline.policies.refs import ServedPolicy
from pipeline.sampling import endpoint
from pipeline.sampling.endpoint import endpoint_policy
from pipeline.sampling.engines import Request, Sample, Sampling
from pipeline.sampling.engines.openai_engine import OpenAIEngine
from tests.support.raw_server import Answer, Write, http, raw_server, told
from tests.support.tiny_tokenizers import characters

TOKENIZER = characters()
EOS = 2
KEY = "sk-secret"
PROMPT = [4, 13, 5]  # "1+2"
GOOD: dict[str, Any] = {
    "index": 0,
    "text": "3",
    "token_ids": [6, EOS],
    "logprobs": {"token_logprobs": [-0.5, -0.25], "tokens": ["3", "<eos>"]},
    "finish_reason": "stop",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv(endpoint.API_KEY, KEY)


def ask(url: str, stop: tuple[str, ...] = (), max_tokens: int = 5) -> Sample:
    policy = ServedPolicy("tiny@here", url, "tiny", (url,))
    engine = OpenAIEngine(policy, 1, [EOS], TOKENIZER, len(TOKENIZER) + 3)
    try:
        return engine.generate([Request(PROMPT, 7)], Sampling(1.0, 1.0, 0, max_tokens, stop))[0]
    finally:
        engine.close()


def answered(**changes: Any) -> dict[str, Any]:
    return {"choices": [{**GOOD, **changes}]}


def logprobs(*values: Any) -> dict[str, Any]:
    return {"token_logprobs": list(values)}


@pytest.mark.parametrize(
    ("choice", "stop", "sample"),
    [
        ({}, (), Sample([6, EOS], [-0.5, -0.25], "stop")),
        ({"text": None}, (), Sample([6, EOS], [-0.5, -0.25], "stop")),
        ({"text": "3<eos>"}, (), Sample([6, EOS], [-0.5, -0.25], "stop")),
        ({"text": "3 <eos>"}, (), Sample([6, EOS], [-0.5, -0.25], "stop")),
        ({"logprobs": logprobs(0, 0.0005)}, (), Sample([6, EOS], [0.0, 0.0005], "stop")),
        ({"prompt_token_ids": PROMPT}, (), Sample([6, EOS], [-0.5, -0.25], "stop")),
        ({"token_ids": [6, 6], "text": "3"}, ("3",), Sample([6, 6], [-0.5, -0.25], "stop")),
        # a row of the embedding that the tokenizer has no word for
        ({"token_ids": [6, len(TOKENIZER) + 2]}, (), Sample([6, len(TOKENIZER) + 2], [-0.5, -0.25], "stop")),
        (
            {"token_ids": [6] * 5, "text": "33333", "logprobs": logprobs(*[-1] * 5), "finish_reason": "length"},
            (),
            Sample([6] * 5, [-1.0] * 5, "length"),
        ),
    ],
)
def test_an_honest_answer_is_taken(choice: dict[str, Any], stop: tuple[str, ...], sample: Sample) -> None:
    with raw_server(told(answered(**choice))) as server:
        assert ask(server.url, stop) == sample
        assert f"Authorization: Bearer {KEY}" in server.seen[0]


def test_nothing_is_left_to_the_servers_own_settings() -> None:
    """vLLM and SGLang fill what is not asked for from the model's generation_config.json."""
    with raw_server(told(answered())) as server:
        ask(server.url)
        asked = json.loads(server.bodies[0])
    own = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert {name: asked[name] for name in own} == own


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (answered(token_ids=[6, 999_999]), "token id 999999 is outside the vocabulary of 20"),
        (answered(token_ids=[6, 20]), "token id 20 is outside the vocabulary of 20"),
        (answered(token_ids=[6, -1]), "token id -1 is outside"),
        (answered(token_ids=[6, 10**30]), "token_ids"),
        (answered(token_ids=[6, 2.5]), "valid integer"),
        (answered(token_ids=[6, "2"]), "valid integer"),
        (answered(token_ids=[6, True]), "valid integer"),
        (answered(token_ids=[6, None]), "valid integer"),
        (answered(token_ids="32"), "valid array"),
        (answered(token_ids=None), "'token_ids'.*missing.*return_token_ids"),
        (answered(token_ids=[], logprobs=logprobs()), "0 tokens, where 1 to 5"),
        (answered(token_ids=[6] * 5_000, logprobs=logprobs(*[-1.0] * 5_000)), "5,000 tokens, where 1 to 5"),
        (answered(token_ids=[7, EOS]), "decode to another text"),
        (answered(text="33"), "decode to another text"),
        (answered(prompt_token_ids=[4, 13, 6]), "another prompt"),
        (answered(logprobs=None), "'logprobs.token_logprobs'.*missing"),
        (answered(logprobs={}), "'logprobs.token_logprobs'.*missing"),
        (answered(logprobs=logprobs(-1.0)), "1 values for 2 tokens"),
        (answered(logprobs=logprobs(-1.0, -1.0, -1.0)), "3 values for 2 tokens"),
        (answered(logprobs=logprobs(-1.0, float("nan"))), "finite"),
        (answered(logprobs=logprobs(-1.0, float("-inf"))), "finite"),
        (answered(logprobs=logprobs(-1.0, 5)), "log-probability of 5 is above 0"),
        (answered(logprobs=logprobs(-1.0, None)), "valid number"),
        (answered(logprobs=logprobs(-1.0, "-1")), "valid number"),
        (answered(finish_reason="abort"), "finish_reason.*'stop' or 'length'"),
        (answered(finish_reason=None), "finish_reason"),
        ({"choices": [{k: v for k, v in GOOD.items() if k != "finish_reason"}]}, "finish_reason: Field required"),
        ({"choices": [GOOD, GOOD]}, "2 responses where one was asked for"),
        ({"choices": [GOOD, {**GOOD, "index": 0}, {**GOOD, "index": 2}]}, "3 responses"),
        ({"choices": []}, "0 responses"),
        ({"choices": {"0": GOOD}}, "choices: Input should be a valid array"),
        ({"choices": [None]}, "choices.0"),
        ({"object": "error", "message": "no"}, "choices: Field required.*no"),
        ([GOOD], "should be an object"),
        ("3", "should be an object"),
    ],
    ids=lambda value: value.__qualname__ if callable(value) else ascii(value)[:60],
)
def test_an_answer_that_does_not_hold_is_refused(answer: Any, message: str) -> None:
    with raw_server(told(answer)) as server:
        with pytest.raises(TbrmError, match=message):
            ask(server.url)
        assert len(server.seen) == 1, "an answer that is wrong is not asked for again"


def drip(head: bytes, piece: bytes) -> Answer:
    """Sends `piece` for ever, a little at a time."""

    def answer(write: Write) -> None:
        write(head)
        for _ in itertools.count():
            write(piece)

    return answer


def silent(write: Write) -> None:
    """Ends the connection."""


def lines(data: bytes) -> Answer:
    return lambda write: write(data)


def body(data: bytes, status: str = "200 OK", **headers: str) -> Answer:
    return lambda write: write(http(data, status, **headers))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (body(json.dumps(answered()).encode()[:-9]), "EOF while parsing"),
        (body(b"[" * 100_000), "recursion limit"),
        (body(b'{"choices": [{"text": "\\ud800"}]}'), "surrogate|escape"),
        (body(b"\xff\xfe"), "expected value|UTF-8|utf-8"),
        (body(b""), "EOF while parsing"),
        (body(b"x", "500 Oops"), "HTTP 500 x"),
        (body(b"no", "401 Unauthorized"), "HTTP 401 no"),
        (silent, "without sending a response|disconnected"),
        (lines(b"SSH-2.0-OpenSSH\r\n"), "illegal status line|disconnected"),
        (lines(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"), "incomplete|without"),
        (drip(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b" " * 65_536), "more than .* bytes"),
        (
            drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4000\r\n" + b" " * 0x4000 + b"\r\n"),
            "more than .* bytes",
        ),
        (drip(b"HTTP/1.1 200 OK\r\n", b"X-Header: 1\r\n"), "too many|Receive buffer too long|headers"),
        (drip(b"HTTP/1.1 500 No\r\nContent-Length: 99999999999\r\n\r\n", b" " * 65_536), "more than .* bytes"),
    ],
    ids=lambda value: value.__qualname__ if callable(value) else ascii(value)[:40],
)
def test_what_is_no_whole_answer_is_told(answer: Answer, message: str) -> None:
    with raw_server(answer) as server, pytest.raises(TbrmError, match=message):
        ask(server.url)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"])
def test_a_server_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr(endpoint, "_TIMEOUT_S", 0.2)
    with raw_server(silent) as server:

        def dribble(write: Write) -> None:
            write(head)
            while not server.stopping.wait(0.02):
                write(b" " if head else b"H")

        server.answer = dribble
        with pytest.raises(TbrmError, match=r"no whole answer within 0.2 s"):
            ask(server.url)
        assert len(server.seen) == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_neither_key_nor_prompt_follows_a_redirect(status: str) -> None:
    with raw_server(told(answered())) as other, raw_server(told({})) as server:
        server.answer = body(b"", status, Location=f"{other.url}/completions")
        with pytest.raises(TbrmError, match=rf"redirects to {other.url}/completions, which is not followed"):
            ask(server.url)
        with pytest.raises(TbrmError, match="redirects to"):
            endpoint_policy(ServerModel(server.url))
        assert other.seen == []


def test_a_compressed_answer_is_not_asked_for() -> None:
    with raw_server(told(answered())) as server:
        ask(server.url)
        assert "accept-encoding: identity" in server.seen[0].lower()


@pytest.mark.parametrize("key", ["sk-secret\n", "sk secret", "sk-gehe\u00efm", "sk\x1b"])
def test_a_key_that_no_header_can_hold_is_told_without_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(endpoint.API_KEY, key)
    with raw_server(told(answered())) as server:
        with pytest.raises(TbrmError, match=endpoint.API_KEY) as refused:
            ask(server.url)
        assert key not in str(refused.value)
        assert server.seen == []


def test_the_key_goes_to_servers_that_the_yaml_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(endpoint.API_KEY, "sk-secret")
    with raw_server(told({"data": [{"id": "m"}]})) as server:
        port = server.url.rpartition(":")[2].partition("/")[0]
        endpoint_policy(ServerModel(server.url), [server.url])
        assert "authorization: bearer sk-secret" in server.seen.pop().lower()
        others = ("http://127.0.0.1:1/v1", f"https://127.0.0.1:{port}/v1", f"http://localhost:{port}/v1")
        for named in ([], *([other] for other in others), [f"http://127.0.0.1:{port}@other.example/v1"]):
            endpoint_policy(ServerModel(server.url), named)
            assert "authorization" not in server.seen.pop().lower()
        server.answer = body(b"who are you?", "401 Unauthorized")
        with pytest.raises(
            TbrmError, match=f"HTTP 401 who are you.*{endpoint.API_KEY} goes only to servers that.*YAML"
        ):
            endpoint_policy(ServerModel(server.url))


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("http://model.example/v1", True),
        ("HTTP://MODEL.example:80/other#m", True),
        ("http://model.example", True),
        ("https://model.example/v1", False),
        ("http://model.example:8000/v1", False),
        ("http://model.example.attacker.example/v1", False),
        ("http://model.example@attacker.example/v1", False),
        ("http://attacker.example\\@model.example/v1", False),
        ("http://model.example\\@attacker.example/v1", False),
        ("http://attacker.example/http://model.example/v1", False),
        ("http:///model.example", False),
        ("", False),
    ],
)
def test_a_server_is_named_by_scheme_host_and_port(address: str, named: bool) -> None:
    assert endpoint.is_named(address, ["https://other.example", "http://model.example/v1#m"]) == named
    assert not endpoint.is_named(address, [])


@pytest.mark.parametrize("models", [{"data": [{"id": 3}]}, {"data": "x"}, {"data": [{}]}, [], {"data": []}])
def test_a_list_of_models_is_checked_as_well(models: Any) -> None:
    with raw_server(told(models)) as server, pytest.raises(TbrmError):
        endpoint_policy(ServerModel(server.url))


@pytest.mark.parametrize("address", ["http://[half", "http://", "http://host:99999/v1"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(TbrmError):
        ask(endpoint_policy(ServerModel(f"{address}#model")).path.removesuffix("#model"))


def test_a_server_is_asked_again_when_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = list[float]()
    monkeypatch.setattr(endpoint.time, "sleep", pauses.append)
    for asked in ("7", "99999999999", "soon", "-3"):
        with raw_server(told(answered())) as server:
            busy = [body(b"", "429 Too Many", Retry_After=asked), told(answered())]
            server.answer = lambda write, answers=busy: answers.pop(0)(write)
            ask(server.url)
    assert pauses == [7.0, 60.0, 0.001, 0.001]


def test_a_connection_serves_one_request_after_another_and_keeps_no_cookie() -> None:
    connections, cookies = list[int](), list[str | None]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connections.append(1)
            super().setup()

        def do_GET(self) -> None:
            cookies.append(self.headers.get("Cookie"))
            data = json.dumps({"data": [{"id": "m"}]}).encode()
            self.send_response(200)
            self.send_header("Set-Cookie", "a=b")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for _ in range(3):
            endpoint_policy(ServerModel(f"http://127.0.0.1:{server.server_port}/v1"))
        server.shutdown()
    assert (len(connections), cookies) == (1, [None] * 3)
