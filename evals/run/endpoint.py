"""Policies behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted ones): `http://host:8000/v1#model`.

Templates are written out by us and sent to `/completions`; with the template `chat` the server's own is used through
`/chat/completions`. The server tokenizes: a tokenizer that puts a token before every text does so here too.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

from pydantic import Field

from evals.run.answers import Answer, Question
from evals.run.plan import FullProtocol
from pipeline.errors import TbrmError
from pipeline.policies.refs import ServedPolicy
from pipeline.prompts import render
from pipeline.sampling.endpoint import Answered, call


class _Message(Answered):
    content: str | None = None


class _Choice(Answered):
    finish_reason: str | None = None
    text: str | None = None
    message: _Message | None = None


class _Usage(Answered):
    completion_tokens: int = Field(ge=0)


class _Completion(Answered):
    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage


class EndpointAnswerer:
    """Asks a server, `requests` questions at a time. Overload and broken connections are tried again, with pauses."""

    name = "openai"
    version = "v1"

    def __init__(self, policy: ServedPolicy, requests: int) -> None:
        self.url, self.model, self.named = policy.url, policy.model, policy.named
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
        chat = protocol.template == "chat"
        if chat:
            prompt = question.problem.text
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            prompt = body["prompt"] = render(protocol.template, question.problem.text, None)
        where = "chat/completions" if chat else "completions"
        # A prompt has no more tokens than bytes.
        answer = call(f"{self.url}/{where}", body, _Completion, len(prompt.encode()) + protocol.max_tokens, self.named)
        choice, tokens = answer.choices[0], answer.usage.completion_tokens
        if tokens > protocol.max_tokens:
            told = f"{tokens:,} tokens, where max_tokens is {protocol.max_tokens:,}"
            raise TbrmError(f"{self.url} ({self.model}) answers with {told}")
        if (choice.message if chat else choice.text) is None:
            raise TbrmError(f"{self.url} ({self.model}) answers without choices.0.{'message' if chat else 'text'}")
        text = choice.message.content if chat and choice.message else choice.text
        return Answer(prompt, [], text or "", None, tokens, "length" if choice.finish_reason == "length" else "stop")
