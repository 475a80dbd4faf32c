"""reasoning-gym: the package's own scorer of a task where it runs no text as code, else one of ours.

`pipeline.config.reasoning_gym` says which task is graded how. Scores may give partial credit.
"""

import functools
import importlib
import importlib.metadata
from typing import Any

from pipeline.config.reasoning_gym import SCORED_BY_GRAMMAR, refusal
from pipeline.errors import needing
from pipeline.rewards.text import final_boxes
from pipeline.rewards.types import Extra, RewardLabel, Verifier, wrong_format
from pipeline.rewards.verifiers import RUNNING_CODE
from pipeline.rewards.verifiers.gym_scorers import SCORERS

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
def package_scorer(task: str) -> Any:
    """The package's `score_answer(answer, entry)` of a task. Raises ValueError for a name the package does not have."""
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(task)


def scorer(task: str) -> Any:
    """The function `(answer, entry)` that grades a task. Raises ValueError for a task that is not graded."""
    reason = refusal(task)
    if reason:
        raise ValueError(f"reasoning_gym task {task!r} is not graded: {reason}")
    return SCORERS[task] if task in SCORED_BY_GRAMMAR else package_scorer(task)


def grade(response: str, answer: str, extra: Extra) -> RewardLabel:
    """`extra` holds the task's name in `task` and the generated question in `entry` (answer and metadata)."""
    return _grade_by(scorer, response, answer, extra)


def grade_running_code(response: str, answer: str, extra: Extra) -> RewardLabel:
    """The package's own scorer, which may run the answer or the entry as Python: only ever in a process of its own."""
    return _grade_by(package_scorer, response, answer, extra)


def _grade_by(scorer_of: Any, response: str, answer: str, extra: Extra) -> RewardLabel:
    task, entry = extra.get("task"), extra.get("entry")
    if not isinstance(task, str) or not isinstance(entry, dict):
        return RewardLabel(0.0, "error", None, "extra must hold `task`, a name, and `entry`, the generated question")
    if not response:
        return wrong_format("the response is empty")
    score = float(scorer_of(task)(response, {**entry, "answer": answer}))
    return RewardLabel(score, "ok", response, None, {"correctness": score, "format": 1.0})


with needing("gym", "the verifier reasoning_gym"):
    _VERSION = f"{importlib.metadata.version('reasoning-gym')}+2"
_PREPARE = functools.partial(importlib.import_module, "reasoning_gym")  # a second of a processor
VERIFIER = Verifier("reasoning_gym", _VERSION, grade, extract, prepare=_PREPARE)
VERIFIER_RUNNING_CODE = Verifier(RUNNING_CODE, _VERSION, grade_running_code, extract, prepare=_PREPARE, runs_code=True)
