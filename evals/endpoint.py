"""Policies behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted ones): `http://host:8000/v1#model`.

Templates are written out by us and sent to `/completions`; with the template `chat` the server's own is used through
`/chat/completions`. The server tokenizes: a tokenizer that puts a token before every text does so here too.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any
from urllib.parse import urlsplit

from evals.answers import Answer, Question
from evals.plan import FullProtocol
from pipeline.errors import TbrmError
from pipeline.policy import PolicyRef
from pipeline.prompts import render

API_KEY = "OPENAI_API_KEY"
"""Environment variable of the server's key, where it wants one."""
_TIMEOUT_S = 3_600.0
_TRIES = 6
_FIRST_PAUSE_S = 0.5
_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


def is_endpoint(path: str) -> bool:
    """Whether a policy's path is the address of a server."""
    return path.startswith(("http://", "https://"))


def endpoint_policy(address: str) -> PolicyRef:
    """The policy `URL#MODEL`; without a model the only one that the server has. Its id is `model@host:port`.

    A server may load other weights under the same name: then give them another name, or evaluate with --replace.
    Raises TbrmError when the server has several models, or does not answer.
    """
    url, _, model = address.partition("#")
    url = url.rstrip("/")
    if not model:
        found = _call(f"{url}/models", None)
        names = [str(entry["id"]) for entry in found.get("data", [])]
        if len(names) != 1:
            raise TbrmError(f"{url} has the models {', '.join(names) or 'none'}: name one, as {url}#MODEL")
        model = names[0]
    return PolicyRef(f"{model}@{urlsplit(url).netloc}", f"{url}#{model}")


class EndpointAnswerer:
    """Asks a server, `requests` questions at a time. Overload and broken connections are tried again, with pauses."""

    name = "openai"
    version = "v1"

    def __init__(self, path: str, requests: int) -> None:
        self.url, _, self.model = path.partition("#")
        self._pool = ThreadPoolExecutor(requests)

    def answer(self, questions: Sequence[Question], protocol: FullProtocol) -> list[Answer]:
        return list(self._pool.map(self._ask, questions, repeat(protocol)))

    def close(self) -> None:
        self._pool.shutdown()

    def _ask(self, question: Question, protocol: FullProtocol) -> Answer:
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": protocol.temperature,
            "top_p": protocol.top_p,
            "max_tokens": protocol.max_tokens,
            "seed": question.seed % 2**31,
        }
        if protocol.template == "chat":
            prompt = question.problem.text
            body["messages"] = [{"role": "user", "content": prompt}]
            reply = _call(f"{self.url}/chat/completions", body)
        else:
            prompt = body["prompt"] = render(protocol.template, question.problem.text, None)
            reply = _call(f"{self.url}/completions", body)
        try:
            choice = reply["choices"][0]
            text = choice["message"]["content"] if protocol.template == "chat" else choice["text"]
            tokens, reason = int(reply["usage"]["completion_tokens"]), str(choice["finish_reason"])
        except (KeyError, IndexError, TypeError) as error:
            raise TbrmError(
                f"{self.url} answered without {error}: {json.dumps(reply)[:300]}. It is not OpenAI-compatible"
            ) from error
        return Answer(prompt, [], text or "", None, tokens, "length" if reason == "length" else "stop")


def _call(url: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
    """GET, or POST of a JSON body; the JSON object that comes back. Raises TbrmError after the last try."""
    headers = {"Content-Type": "application/json"}
    key = os.environ.get(API_KEY)
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    reason = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
                found = json.load(reply)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.read(500).decode(errors='replace')}"
            if error.code not in _TRY_AGAIN:
                break
        except (OSError, ValueError) as error:  # broken connections are OSErrors, half a JSON text is a ValueError
            reason = str(error)
        else:
            if isinstance(found, dict):
                return found
            reason = f"the answer is {type(found).__name__}, not a JSON object"
            break
    raise TbrmError(f"{url}: {reason}. Mend it and run again: finished shards are kept")
