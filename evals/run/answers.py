"""Asking a policy: a local engine, or a server. Whoever answers, an answer looks the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evals.run.plan import FullProtocol, Setting
from pipeline.policies.facts import refuse_large_on_cpu
from pipeline.policies.load_save import load_tokenizer
from pipeline.policies.refs import Acting, PolicyRef, ServedPolicy
from pipeline.prompts import Problem, render
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


def answerer_of(setting: Setting, policy: Acting) -> Answerer:
    """Start what answers for `policy`. Raises TbrmError when it cannot be had."""
    from evals.run.endpoint import EndpointAnswerer

    if isinstance(policy, ServedPolicy):
        return EndpointAnswerer(policy, setting.evaluation.endpoint_requests)
    return LocalAnswerer(setting, policy)
