"""Is all of a gold answer understood? That is asked in workers too, since a log may hold any text as an answer."""

from pipeline.rewards.types import Extra, RewardLabel, Verifier, verdict
from pipeline.rewards.verifiers import GOLD_ANSWERS
from pipeline.rewards.verifiers.math_verify import gold_text


def grade(response: str, answer: str, extra: Extra) -> RewardLabel:
    """Right where the gold answer is understood, status error with the reason where it is not."""
    from pipeline.rewards.answers.compare import fault

    reason = fault(gold_text(answer))
    return RewardLabel(0.0, "error", None, reason) if reason else verdict(True, answer)


VERIFIER = Verifier(GOLD_ANSWERS, "1", grade)
