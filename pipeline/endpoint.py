"""Policies behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted ones): `http://host:8000/v1#model`."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import TbrmError
from pipeline.policy import PolicyRef

API_KEY = "OPENAI_API_KEY"
"""Environment variable of the server's key, where it wants one."""
_TIMEOUT_S = 3_600.0
_TRIES = 6
_FIRST_PAUSE_S = 0.5
_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


def endpoint_policy(address: str) -> PolicyRef:
    """The policy `URL#MODEL`; without a model the only one that the server has. Its id is `model@host:port`.

    A server may load other weights under the same name: then give them another name, or run the stage with --replace.
    Raises TbrmError when the server has several models, or does not answer.
    """
    url, _, model = address.partition("#")
    url = url.rstrip("/")
    if not model:
        found = call(f"{url}/models", None)
        names = [str(entry["id"]) for entry in found.get("data", [])]
        if len(names) != 1:
            raise TbrmError(f"{url} has the models {', '.join(names) or 'none'}: name one, as {url}#MODEL")
        model = names[0]
    return PolicyRef(f"{model}@{urlsplit(url).netloc}", f"{url}#{model}")


def call(url: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
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
