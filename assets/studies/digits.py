"""A verifier with a reward for every token of a sum: what its digits so far are worth, and in all the outcome."""

import itertools
from collections.abc import Mapping
from typing import Any


def digits_so_far(response: str, answer: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Dense rewards for answers of one token a character, the last of which may be the end token.

    The worth of a beginning is the part of the answer it has right, 0 as soon as a digit is wrong. A token earns what
    it changes that worth by, so the rewards of a response sum to its outcome: 1 for the answer, 0 for anything else.
    Objectives of whole trajectories see no difference; objectives of single transitions learn at every token.
    """
    outcome = float(response == answer)
    worth = [0.0]
    for length in range(1, len(response) + 1):
        right = response[:length] == answer[:length] and length <= len(answer)
        worth.append(length / (len(answer) + 1) if right else 0.0)
    steps = [after - before for before, after in itertools.pairwise(worth)]
    tokens = len(extra["response_token_ids"]) if "response_token_ids" in extra else len(response)
    steps = (steps + [0.0] * tokens)[:tokens]
    if steps:
        steps[-1] += outcome - sum(steps)
    return {"reward": outcome, "extracted_answer": response, "token_rewards": steps}
