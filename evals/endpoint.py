"""Policies behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted ones): `http://host:8000/v1#model`.

Templates are written out by us and sent to `/completions`; with the template `chat` the server's own is used through
`/chat/completions`. The server tokenizes: a tokenizer that puts a token before every text does so here too.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

from evals.answers import Answer, Question
from evals.plan import FullProtocol
from pipeline.endpoint import call
from pipeline.errors import TbrmError
from pipeline.prompts import render


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
            reply = call(f"{self.url}/chat/completions", body)
        else:
            prompt = body["prompt"] = render(protocol.template, question.problem.text, None)
            reply = call(f"{self.url}/completions", body)
        try:
            choice = reply["choices"][0]
            text = choice["message"]["content"] if protocol.template == "chat" else choice["text"]
            tokens, reason = int(reply["usage"]["completion_tokens"]), str(choice["finish_reason"])
        except (KeyError, IndexError, TypeError) as error:
            raise TbrmError(
                f"{self.url} answered without {error}: {json.dumps(reply)[:300]}. It is not OpenAI-compatible"
            ) from error
        return Answer(prompt, [], text or "", None, tokens, "length" if reason == "length" else "stop")
