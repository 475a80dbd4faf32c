"""Verifiers that a user might write, the bad ones included. Named by the tests as `user_verifiers:…`."""

import os
import time
from collections.abc import Mapping
from typing import Any


class Unpicklable(Exception):
    """Cannot be rebuilt from its arguments on the other side of a pipe."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def by_length(response: str, answer: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    tokens = extra.get("response_token_ids", [])
    return {"reward": len(response) == len(answer), "extracted_answer": response, "token_rewards": [0.5] * len(tokens)}


def two_token_rewards(response: str, answer: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {"reward": 1.0, "token_rewards": [1.0, 2.0]}


def misbehave(response: str, answer: str, extra: Mapping[str, Any]) -> Any:
    """Does what the response says."""
    match response:
        case "sleep":
            time.sleep(3600)
        case "allocate":
            return len(bytearray(8 * 2**30)) > 0
        case "allocate slowly":
            hoard: list[bytes] = []
            while True:
                hoard.append(bytes(2**24))
        case "exit":
            os._exit(0)
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), 9)
        case "raise":
            raise Unpicklable(1, 2)
        case "nan":
            return float("nan")
        case "nonsense":
            return object()
        case "spin":
            while True:
                pass
    return response == answer


def told_threads(response: str, answer: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {"reward": 1.0, "extracted_answer": os.environ.get("OMP_NUM_THREADS")}


def slow(response: str, answer: str, extra: Mapping[str, Any]) -> bool:
    time.sleep(0.02)
    return response.endswith(answer)


def runs_the_response(response: str, answer: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What a careless verifier does: it runs what the model wrote, and says what became of it."""
    exec(response, globals())
    return {"reward": float(response == answer), "detail": str(globals().get("told", ""))}
