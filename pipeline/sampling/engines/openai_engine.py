"""Sampling from a server that takes and tells token ids: nothing is tokenized again on the way."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pipeline.errors import TbrmError
from pipeline.policies.refs import ServedPolicy
from pipeline.sampling.endpoint import Answered, call
from pipeline.sampling.engines.base import LOGPROB_ABOVE_ZERO, FinishReason, Request, Sample, Sampling


class _Logprobs(Answered):
    token_logprobs: list[float] | None = None


class _Choice(Answered):
    finish_reason: FinishReason
    text: str | None = None
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    prompt_token_ids: list[int] | None = None


class _Completion(Answered):
    choices: list[_Choice]


class OpenAIEngine:
    """See Engine. Asks `/completions` with token ids, `requests` at a time; vLLM and SGLang servers tell ids back.

    Its log-probs are the server's: of a vLLM server raw ones, as this project's own engines store them. An answer is
    checked as a row of a log is: `tokenizer` spells it, and its ids lie below `vocabulary`.
    """

    name = "openai"
    version = "v1"

    def __init__(
        self,
        policy: ServedPolicy,
        requests: int,
        stop_ids: Sequence[int],
        tokenizer: Any,
        vocabulary: int,
    ) -> None:
        self.url, self.model, self.named = policy.url, policy.model, policy.named
        self.stop_ids, self.tokenizer, self.vocabulary = list(stop_ids), tokenizer, vocabulary
        self._pool = ThreadPoolExecutor(requests)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        return list(self._pool.map(partial(self._ask, sampling), requests))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, sampling: Sampling, request: Request) -> Sample:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": request.prompt_token_ids,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # A server takes from the model's generation_config.json what it is not told.
            "top_k": sampling.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "max_tokens": sampling.max_tokens,
            "seed": request.seed % 2**31,
            "logprobs": 1,
            "return_token_ids": True,
            "stop_token_ids": self.stop_ids,
            "skip_special_tokens": False,
        }
        if sampling.stop:
            body |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        prompt = request.prompt_token_ids
        answer = call(f"{self.url}/completions", body, _Completion, len(prompt) + sampling.max_tokens, self.named)
        if len(answer.choices) != 1:
            raise self._bad("choices", f"{len(answer.choices)} responses where one was asked for")
        return self._checked(answer.choices[0], prompt, sampling)

    def _checked(self, choice: _Choice, prompt: Sequence[int], sampling: Sampling) -> Sample:
        """The response as rows of a log are taken: ids of the vocabulary, as many log-probs, none above 0."""
        longest = sampling.max_tokens
        ids, logprobs = choice.token_ids, choice.logprobs.token_logprobs if choice.logprobs else None
        if ids is None or logprobs is None:
            raise self._bad(
                "token_ids" if ids is None else "logprobs.token_logprobs",
                "missing: trajectories are stored as token ids with their log-probs, and text is never tokenized "
                "again. Use a server with `return_token_ids` (vLLM), or import the responses with `tbrm import`",
            )
        if not 0 < len(ids) <= longest:
            raise self._bad("token_ids", f"{len(ids):,} tokens, where 1 to {longest:,} (rollouts.max_tokens) may be")
        if len(logprobs) != len(ids):
            raise self._bad("logprobs.token_logprobs", f"{len(logprobs):,} values for {len(ids):,} tokens")
        if beyond := next((each for each in ids if not 0 <= each < self.vocabulary), None):
            raise self._bad(
                "token_ids",
                f"token id {beyond} is outside the vocabulary of {self.vocabulary:,}: the server has another tokenizer",
            )
        if (highest := max(logprobs)) > LOGPROB_ABOVE_ZERO:
            raise self._bad("logprobs.token_logprobs", f"a log-probability of {highest:g} is above 0")
        if choice.prompt_token_ids not in (None, prompt):
            raise self._bad("prompt_token_ids", "the server answered another prompt than it was asked")
        if choice.text and not self._spells(ids, choice.text, bool(sampling.stop)):
            raise self._bad("token_ids", "decode to another text than the answer's: the server has another tokenizer")
        return Sample(ids, logprobs, choice.finish_reason)

    def _spells(self, ids: Sequence[int], text: str, may_be_cut: bool) -> bool:
        """Whether `ids` are the tokens of `text`.

        Servers leave out special tokens, the token that ended the response, white space between special tokens and
        half a character at the end; a text that ended it may end within a token.
        """
        said = _letters(text)
        spelled = [
            _letters(self.tokenizer.decode(part, skip_special_tokens=skip))
            for part in (ids, ids[:-1])
            for skip in (False, True)
        ]
        return said in spelled or (may_be_cut and any(one.startswith(said) for one in spelled))

    def _bad(self, field: str, reason: str) -> TbrmError:
        return TbrmError(
            f"{self.url} ({self.model}), field {field!r} of its answer: {reason}. Nothing of it was stored"
        )


def _letters(text: str) -> str:
    return "".join(text.split()).replace("\ufffd", "")
