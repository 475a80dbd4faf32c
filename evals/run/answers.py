"""Asking a policy, in a local engine or behind a server: whoever answers, an answer looks the same."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Protocol

from pydantic import Field

from evals.run.plan import FullProtocol, Setting
from pipeline.errors import TbrmError
from pipeline.policies.load_save import load_tokenizer, refuse_large_on_cpu
from pipeline.policies.refs import Acting, PolicyRef, ServedPolicy
from pipeline.prompts import Problem, render
from pipeline.sampling.endpoint import Answered, call
from pipeline.sampling.engines import Request, Sampling, load_engine


@dataclass(frozen=True)
class Question:
    """One response wanted; `seed` decides its random choices."""

    problem: Problem
    sample_index: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """A response. Token ids are None where a server does not tell them; `tokens` counts them in any case."""

    prompt_text: str
    prompt_token_ids: list[int]
    text: str
    token_ids: list[int] | None
    tokens: int
    finish_reason: str


class Answerer(Protocol):
    """Answers questions until closed."""

    name: str
    version: str

    def answer(self, questions: Sequence[Question], protocol: FullProtocol) -> list[Answer]:
        """One answer for each question, in order."""
        ...

    def close(self) -> None:
        """Give memory and processes back."""
        ...


class LocalAnswerer:
    """A Hugging Face folder in one of the sampling engines."""

    def __init__(self, setting: Setting, policy: PolicyRef) -> None:
        refuse_large_on_cpu(policy.path, setting.large_model_on_cpu)
        self.tokenizer: Any = load_tokenizer(policy.path)
        self.engine = load_engine(setting.engine, setting.policy, policy, self.tokenizer, stop=setting.stop)
        self.stop = setting.stop
        self.name, self.version = self.engine.name, self.engine.version

    def answer(self, questions: Sequence[Question], protocol: FullProtocol) -> list[Answer]:
        texts = {q.problem.id: render(protocol.template, q.problem.text, self.tokenizer) for q in questions}
        # Special tokens stand in the template's text, so the tokenizer adds none.
        ids: dict[str, list[int]] = {
            problem: self.tokenizer.encode(text, add_special_tokens=False) for problem, text in texts.items()
        }
        requests = [Request(ids[q.problem.id], q.seed) for q in questions]
        sampling = Sampling(protocol.temperature, protocol.top_p, 0, protocol.max_tokens, self.stop)
        return [
            Answer(
                prompt_text=texts[question.problem.id],
                prompt_token_ids=ids[question.problem.id],
                text=self.tokenizer.decode(sample.token_ids, skip_special_tokens=True),
                token_ids=sample.token_ids,
                tokens=len(sample.token_ids),
                finish_reason=sample.finish_reason,
            )
            for question, sample in zip(questions, self.engine.generate(requests, sampling), strict=True)
        ]

    def close(self) -> None:
        self.engine.close()


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
    """Asks an OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted ones), `requests` questions at a time.

    We write out the template and send the text to `/completions`; with the template `chat` the server uses its own,
    through `/chat/completions`. The server tokenizes: a tokenizer that puts a token before every text does so here too.
    What the protocol does not say is the server's own, because a hosted one refuses fields that it does not know.
    After an overload or a broken connection the question is asked again, after a pause.
    """

    name = "openai"
    version = "v1"

    def __init__(self, policy: ServedPolicy, requests: int, stop: Sequence[str] = ()) -> None:
        self.url, self.model, self.named = policy.url, policy.model, policy.named
        self.stop = list(stop)
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
            **({"stop": self.stop} if self.stop else {}),
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


def answerer_of(setting: Setting, policy: Acting) -> Answerer:
    """Start what answers for `policy`. Raises TbrmError when it cannot be had."""
    if isinstance(policy, ServedPolicy):
        return EndpointAnswerer(policy, setting.evaluation.endpoint_requests, setting.stop)
    return LocalAnswerer(setting, policy)
