"""Gold answers that no response can be compared with: found before anything is graded by them."""

from collections.abc import Iterable

from pipeline.config.rewards import RewardsConfig
from pipeline.rewards.answers.numbers import read_number
from pipeline.rewards.verifiers import GOLD_ANSWERS
from pipeline.rewards.workers.grading import Work
from pipeline.rewards.workers.pool import VerifierPool

MOST = 5_000
"""Different gold answers that are looked at: some 50 a second and core, numbers aside."""


def not_understood(answers: Iterable[str], most: int = MOST) -> dict[str, str]:
    """Why, by gold answer, for those of the first `most` different ones that are not wholly understood."""
    wanted = first_different(answers, most)
    if not wanted:
        return {}
    config = RewardsConfig()
    pool = VerifierPool(config.workers, config.timeout_s, config.cpu_s, config.memory_mb)
    try:
        rows = [Work(GOLD_ANSWERS, "", answer, {}) for answer in wanted]
        tasks = [pool.submit(rows[start : start + config.batch]) for start in range(0, len(rows), config.batch)]
        labels = [label for task in tasks for label in pool.collect(task)]
    finally:
        pool.close()
    return {
        answer: label.detail or label.status
        for answer, label in zip(wanted, labels, strict=True)
        if label.status != "ok"
    }


def first_different(answers: Iterable[str], most: int) -> list[str]:
    """The first `most` different ones that are no numbers. A log may hold gigabytes of others: they are not kept."""
    found: dict[str, None] = {}
    for answer in answers:
        if len(found) == most:
            break
        if answer not in found and read_number(answer) is None:
            found[answer] = None
    return list(found)


def counted(number: int) -> str:
    """How many gold answers are not understood, in words."""
    return f"{number:,} gold answer{' is' if number == 1 else 's are'} not understood"
