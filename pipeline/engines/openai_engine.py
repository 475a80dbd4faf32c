"""Sampling from a server that takes and tells token ids: nothing is tokenized again on the way."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pipeline.endpoint import call
from pipeline.engines.base import Request, Sample, Sampling
from pipeline.errors import TbrmError
from pipeline.policy import PolicyRef


class OpenAIEngine:
    """See Engine. Asks `/completions` with token ids, `requests` at a time; vLLM and SGLang servers tell ids back.

    Its log-probs are the server's: of a vLLM server raw ones, as this project's own engines store them.
    """

    name = "openai"
    version = "v1"

    def __init__(self, policy: PolicyRef, requests: int, stop_ids: Sequence[int], stop: Sequence[str]) -> None:
        self.url, _, self.model = policy.path.partition("#")
        self.stop_ids, self.stop = list(stop_ids), list(stop)
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
            "max_tokens": sampling.max_tokens,
            "seed": request.seed % 2**31,
            "logprobs": 1,
            "return_token_ids": True,
            "stop_token_ids": self.stop_ids,
            "skip_special_tokens": False,
        }
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if self.stop:
            body |= {"stop": self.stop, "include_stop_str_in_output": True}
        choice = call(f"{self.url}/completions", body)["choices"][0]
        ids, told = choice.get("token_ids"), choice.get("logprobs") or {}
        logprobs = told.get("token_logprobs")
        if ids is None or logprobs is None or len(ids) != len(logprobs):
            raise TbrmError(
                f"{self.url} ({self.model}) answers without token ids and their log-probs: trajectories are stored as "
                "token ids, and text is never tokenized again. Use a server with `return_token_ids` (vLLM), or import "
                "the responses with `tbrm import`"
            )
        reason = "length" if choice["finish_reason"] == "length" else "stop"
        return Sample([int(i) for i in ids], [float(value) for value in logprobs], reason)
