"""reasoning-gym: the package's own scorer of the task, which may give partial credit."""

import functools
import importlib
import importlib.metadata
from typing import Any

from pipeline.rewards.text import final_boxes
from pipeline.rewards.types import Extra, RewardLabel, Verifier, wrong_format

_ANSWER = ("<answer>", "</answer>")


def extract(response: str) -> str:
    r"""Text of the last `<answer>` tags, else of the final `\boxed{}`, else the last line that is not empty."""
    opened, closed = response.rfind(_ANSWER[0]), response.rfind(_ANSWER[1])
    if 0 <= opened < closed:
        return response[opened + len(_ANSWER[0]) : closed].strip()
    parts = final_boxes(response)
    if parts:
        return ", ".join(parts)
    return response.strip().rpartition("\n")[2].strip()


@functools.cache
def scorer(task: str) -> Any:
    """The task's `score_answer(answer, entry)`. Raises ValueError for a name the package does not have."""
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(task)


def grade(response: str, answer: str, extra: Extra) -> RewardLabel:
    """`extra` holds the task's name in `task` and the generated question in `entry` (answer and metadata)."""
    task, entry = extra.get("task"), extra.get("entry")
    if not isinstance(task, str) or not isinstance(entry, dict):
        return RewardLabel(0.0, "error", None, "extra must hold `task`, a name, and `entry`, the generated question")
    if not response:
        return wrong_format("the response is empty")
    score = float(scorer(task)(response, {**entry, "answer": answer}))
    return RewardLabel(score, "ok", response, None, {"correctness": score, "format": 1.0})


VERIFIER = Verifier(
    "reasoning_gym",
    f"{importlib.metadata.version('reasoning-gym')}+1",
    grade,
    extract,
    prepare=functools.partial(importlib.import_module, "reasoning_gym"),  # a second of a processor
)
