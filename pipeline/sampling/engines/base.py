"""The seam between sampling and everything else: token ids in, token ids out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]
LOGPROB_ABOVE_ZERO = 1e-3
"""Log-probs of servers and logs may lie this far above 0, by rounding. A number above it is no log-prob."""


@dataclass(frozen=True)
class Request:
    """One response wanted. `seed` alone decides its random choices, whatever else is in the batch."""

    prompt_token_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy; top_k 0 is off; `max_tokens` counts the end-of-sequence token."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop: Sequence[str] = ()
    """Texts that end a response and stay part of it (vLLM and servers)."""


@dataclass(frozen=True)
class Sample:
    """A response. `logprobs[i]` is log π(token_ids[i] | prefix) in nats at temperature 1, before top-k and top-p."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class Engine(Protocol):
    """Samples responses from one policy until closed."""

    name: str
    version: str

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        """One sample for each request, in the order of the requests."""
        ...

    def close(self) -> None:
        """Give memory and processes back."""
        ...
