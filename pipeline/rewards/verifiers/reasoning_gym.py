"""reasoning-gym: the package's own scorer of the task, which may give partial credit."""

import functools
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
    """`extra` is the generated entry's metadata, or holds it under `metadata`; it names the task in `source_dataset`."""
    nested = extra.get("metadata")
    metadata = nested if isinstance(nested, dict) else dict(extra)
    task = metadata.get("source_dataset") or extra.get("task")
    if not isinstance(task, str):
        return RewardLabel(0.0, "error", None, "extra names no reasoning-gym task in `source_dataset`")
    if not response:
        return wrong_format("the response is empty")
    entry = {"question": str(extra.get("question", "")), "answer": answer, "metadata": metadata}
    score = float(scorer(task)(response, entry))
    return RewardLabel(score, "ok", response, None, {"correctness": score, "format": 1.0})


VERIFIER = Verifier("reasoning_gym", f"{importlib.metadata.version('reasoning-gym')}+1", grade, extract)
