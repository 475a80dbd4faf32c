"""Policies behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted ones): `http://host:8000/v1#model`.

What a server answers is foreign: its size, its time and its form are checked here, its content where it is used.
"""

import asyncio
import functools
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config.policy import ServerModel
from pipeline.errors import TbrmError
from pipeline.policies.refs import ServedPolicy

if TYPE_CHECKING:
    import httpx

API_KEY = "OPENAI_API_KEY"
"""Environment variable of the server's key, where it wants one."""
_TIMEOUT_S = 3_600.0
"""Longest that one request may take, from the connection to the last byte of the answer."""
_TRIES = 6
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0
"""A server may ask for as much by its header `Retry-After`."""
_NO_ENTRY = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LARGEST_ANSWER = 1 << 20
"""Bytes of an answer in which no text is asked for."""
_BYTES_PER_TOKEN = 1_024
"""Room for each token of prompt and response: its id, its text four times (as log-probs are told), its log-prob."""
_SHOWN = 300


class Answered(BaseModel):
    """What of a server's JSON is used. Values are taken as they are: "3" is no number, and NaN is none either."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class _Model(Answered):
    id: str


class _Models(Answered):
    data: list[_Model] = []


T = TypeVar("T")
Reply = TypeVar("Reply", bound=Answered)
_ORIGIN = re.compile(r"(https?)://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(?=[/?#]|$)")


def is_named(address: str, servers: Iterable[str]) -> bool:
    """Whether `address` has scheme, host and port of one of `servers`, whatever its path."""
    origin = _origin(address)
    return origin is not None and any(_origin(server) == origin for server in servers)


def _origin(address: str) -> tuple[str, str, int] | None:
    """(scheme, host, port); None for what other programs might read otherwise, such as `http://user@host`."""
    found = _ORIGIN.match(address.lower())
    return found and (found[1], found[2], int(found[3] or (443 if found[1] == "https" else 80)))


def endpoint_policy(server: ServerModel, named: Sequence[str] = ()) -> ServedPolicy:
    """The policy at a server; without a model the only one that the server has. Its id is `model@host:port`.

    `named` are the servers that may get the key: see `call`.
    A server may load other weights under the same name: then give them another name, or run the stage with --replace.
    Raises TbrmError when the server has several models, or does not answer.
    """
    url, _, model = server.address.partition("#")
    url = url.rstrip("/")
    if not model:
        names = [entry.id for entry in call(f"{url}/models", None, _Models, named=named).data]
        if len(names) != 1:
            raise TbrmError(f"{url} has the models {', '.join(names) or 'none'}: name one, as {url}#MODEL")
        model = names[0]
    try:
        return ServedPolicy(f"{model}@{urlsplit(url).netloc}", url, model, tuple(named))
    except ValueError as error:
        raise TbrmError(f"{url} is no address of a server: {error}") from error


def call(
    url: str, body: Mapping[str, Any] | None, form: type[Reply], tokens: int = 0, named: Sequence[str] = ()
) -> Reply:
    """GET, or POST of a JSON body; the answer as `form`. `tokens` of text, prompt included, bound its size.

    The key goes along only where `url` is at one of `named`, the servers that the experiment's YAML names.
    A broken connection, half an answer and an overloaded server are asked again, with pauses that grow, and that are
    as long as the server asks for. Raises TbrmError after the last try, and at once for a redirect and for an answer of
    another form or size.
    """
    key = _authorization() if is_named(url, named) else {}
    largest = _LARGEST_ANSWER + _BYTES_PER_TOKEN * tokens
    reason, asked = "", 0.0
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(max(_FIRST_PAUSE_S * 2 ** (attempt - 1), asked))
        try:
            status, data, asked = _connections(os.getpid()).run(partial(_exchange, url, body, largest, key))
        except TimeoutError:  # whoever held on for so long may do it every time
            reason = f"no whole answer within {_TIMEOUT_S:g} s"
            break
        except ConnectionError as error:
            reason = str(error)
            continue
        if status != HTTPStatus.OK:
            reason = f"HTTP {status} {_shown(data)}"
            if status in _NO_ENTRY and not key and os.environ.get(API_KEY):
                reason += f" ({API_KEY} goes only to servers that the experiment's YAML names: see `servers`)"
            if status in _TRY_AGAIN:
                continue
            break
        try:
            return form.model_validate_json(data)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            reason = str(wrong["msg"])
            if wrong["type"] != "json_invalid":
                field = ".".join(map(str, wrong["loc"])) or "the whole"
                raise TbrmError(
                    f"{url} does not answer as an OpenAI-compatible server: {field}: {reason}. It said {_shown(data)}"
                ) from error
    raise TbrmError(f"{url}: {reason.rstrip('.')}. Correct it and run again: finished shards are kept")


class _Connections:
    """The connections of this process, each used for one request after another.

    They live in a loop of their own thread, since only a task can be ended at its time whatever a server sends.
    """

    def __init__(self) -> None:
        import httpx

        self._loop = asyncio.new_event_loop()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(timeout=None, follow_redirects=False, limits=limits)
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))
        threading.Thread(target=self._loop.run_forever, daemon=True, name="servers").start()

    def run(self, exchange: "Callable[[httpx.AsyncClient], Coroutine[Any, Any, T]]") -> T:
        """The result of `exchange`; where this thread is interrupted, it is ended."""
        future = asyncio.run_coroutine_threadsafe(exchange(self._client), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()


@functools.cache
def _connections(_process: int) -> _Connections:
    """A fork has none of the threads that it was forked from, and must not use their connections."""
    return _Connections()


async def _exchange(
    url: str, body: Mapping[str, Any] | None, largest: int, key: Mapping[str, str], client: "httpx.AsyncClient"
) -> tuple[int, bytes, float]:
    """(status, body, seconds to wait before another try) of one request.

    Raises ConnectionError where it breaks, TimeoutError after `_TIMEOUT_S`.

    Raises TbrmError for a redirect, which is not followed: the key and the prompts would go to a host that the
    experiment does not name. And for a body of more than `largest` bytes: it is asked for as it is, since a compressed
    one may grow to any size.
    """
    import httpx

    headers = {"Accept-Encoding": "identity", **key}
    method = "GET" if body is None else "POST"
    try:
        async with asyncio.timeout(_TIMEOUT_S), client.stream(method, url, json=body, headers=headers) as reply:
            if reply.is_redirect:
                there = urljoin(url, reply.headers.get("Location", ""))
                raise TbrmError(
                    f"{url} redirects to {there}, which is not followed: key and prompts would go there. Write that "
                    "address into the experiment if you trust it"
                )
            data = bytearray()
            async for piece in reply.aiter_raw():
                data += piece
                if len(data) > largest:
                    raise TbrmError(f"{url} answers with more than {largest:,} bytes: the request needs less")
            asked = reply.headers.get("Retry-After", "")
            pause = min(float(asked), _LONGEST_PAUSE_S) if asked.isdecimal() else 0.0
            return reply.status_code, bytes(data), pause
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise TbrmError(f"{url} is no address of a server: {error}") from error
    except httpx.HTTPError as error:
        cause: BaseException = error
        while cause.__cause__ or cause.__context__:  # httpx says "all attempts failed", the system says why
            cause = cause.__cause__ or cause.__context__ or cause
        number = cause.errno if isinstance(cause, OSError) else None
        reason = os.strerror(number) if number and number > 0 else str(cause)
        raise ConnectionError(reason or type(error).__name__) from error


def _authorization() -> dict[str, str]:
    """The header of the key, where there is one. Raises TbrmError for one that no header can hold."""
    key = os.environ.get(API_KEY)
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise TbrmError(f"{API_KEY} holds a blank, a line break or a character beyond ASCII: set it to the key alone")
    return {"Authorization": f"Bearer {key}"}


def _shown(data: bytes) -> str:
    return data[:_SHOWN].decode(errors="replace")
