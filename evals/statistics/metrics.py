"""Numbers of one benchmark: accuracy, pass@k, maj@k, lengths and failures, each with its interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evals.statistics.intervals import Interval, accuracy_interval, mean_interval, share_interval
from evals.statistics.scores import Scores
from pipeline.rewards.answers.compare import value_key
from pipeline.store import Stat


@dataclass(frozen=True)
class Summary:
    """Accuracy is Avg@k: the mean over problems of the mean over samples."""

    accuracy: Interval
    pass_at: Mapping[int, Interval]
    majority_at: Mapping[int, Interval]
    response_tokens: Interval
    truncated: Interval
    unparsed: Interval
    sound: Interval | None
    """Accuracy without the problems that cannot be answered as stated; None where there are none of these."""
    problems: int
    samples: int

    def to_stats(self, prefix: str) -> dict[str, Stat]:
        """Flat numbers under `prefix`, each followed by the ends of its interval."""
        named = {
            "accuracy": self.accuracy,
            **({"accuracy_sound": self.sound} if self.sound else {}),
            **{f"pass_at_{k}": value for k, value in self.pass_at.items() if k > 1},
            **{f"maj_at_{k}": value for k, value in self.majority_at.items()},
            "response_tokens": self.response_tokens,
            "truncated_share": self.truncated,
            "unparsed_share": self.unparsed,
        }
        stats: dict[str, Stat] = {}
        for name, interval in named.items():
            stats |= {
                f"{prefix}_{name}": interval.value,
                f"{prefix}_{name}_low": interval.low,
                f"{prefix}_{name}_high": interval.high,
            }
        return stats | {f"{prefix}_problems": self.problems, f"{prefix}_samples": self.samples}


def summarize(scores: Scores) -> Summary:
    """Every number of one benchmark."""
    problems, samples = scores.correct.shape
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k <= samples]
    right = scores.correct >= 1.0
    majority = {samples: share_interval(float(majority_correct(scores).mean()), problems)} if samples > 1 else {}
    return Summary(
        accuracy=accuracy_interval(scores.correct),
        pass_at={k: share_interval(float(pass_at_k(right.sum(axis=1), samples, k).mean()), problems) for k in ks},
        majority_at=majority,
        response_tokens=mean_interval(scores.tokens.mean(axis=1)),
        truncated=accuracy_interval(scores.truncated.astype(np.float64)),
        unparsed=accuracy_interval(scores.unparsed.astype(np.float64)),
        sound=accuracy_interval(scores.correct[~scores.flawed]) if sound_differs(scores) else None,
        problems=problems,
        samples=samples,
    )


def sound_differs(scores: Scores) -> bool:
    """Whether some, but not all, problems are flawed."""
    return bool(scores.flawed.any()) and not scores.flawed.all()


def pass_at_k(right: NDArray[np.int64], samples: int, k: int) -> NDArray[np.float64]:
    """Chance that k of the n `samples` hold a right one, for each problem [P]: 1 - C(n - c, k) / C(n, k).

    `right` [P] counts c. Unbiased for the chance that k fresh samples hold one (Chen et al. 2021, Eq. 1).
    """
    total = math.comb(samples, k)
    return np.array([1 - math.comb(samples - int(c), k) / total for c in right])


def majority_correct(scores: Scores) -> NDArray[np.float64]:
    """Verdict on the most frequent answer of each problem [P]; ties give their mean.

    Answers are the same when their value is: `12`, `12.0` and `x = 12` are one, and so are all that were found right.
    Samples without an answer do not vote; a problem without votes is wrong.
    """
    return np.array(
        [_majority(answers, correct) for answers, correct in zip(scores.extracted, scores.correct, strict=True)]
    )


def _majority(answers: NDArray[np.object_], correct: NDArray[np.float64]) -> float:
    groups: dict[object, list[float]] = {}
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None:
            groups.setdefault(value_key(str(answer)), []).append(float(right))
    verdicts: list[list[float]] = [group for group in groups.values() if max(group) < 1.0]
    right = [verdict for group in groups.values() if max(group) >= 1.0 for verdict in group]
    verdicts += [right] if right else []
    if not verdicts:
        return 0.0
    most = max(map(len, verdicts))
    return float(np.mean([np.mean(group) for group in verdicts if len(group) == most]))
