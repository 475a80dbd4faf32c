"""Every scored policy in one table: rows are policies, columns are benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass

from evals.run.targets import evaluated
from evals.statistics.intervals import Interval, accuracy_interval
from evals.statistics.scores import Scores, read_scores
from pipeline.store import Store


@dataclass(frozen=True)
class Standing:
    """One policy: its accuracy and protocol by benchmark."""

    dataset: str
    generation: int
    policy_id: str
    accuracy: dict[str, Interval]
    protocol: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.dataset}:{self.generation}" if "/" not in self.dataset else self.dataset.partition("/")[2]

    def to_json(self) -> dict[str, object]:
        return {
            "policy": self.name,
            "policy_id": self.policy_id,
            "accuracy": {name: vars(interval) for name, interval in self.accuracy.items()},
            "protocol": self.protocol,
        }


def standings(store: Store, label: str | None = None) -> list[Standing]:
    """Every scored policy, best mean accuracy over the benchmarks it was measured on first.

    Policies measured on different benchmarks are not comparable by that mean; the table shows which are missing.
    """
    found = [
        _standing(dataset, generation, read_scores(store, dataset, generation, label))
        for dataset, generation in evaluated(store, label)
    ]
    return sorted(found, key=lambda standing: (-len(standing.accuracy), -_mean(standing)))


def columns(found: Sequence[Standing]) -> list[str]:
    """Benchmarks in the order they first appear."""
    return list(dict.fromkeys(name for standing in found for name in standing.accuracy))


def describe_protocol(scores: Scores) -> str:
    """`Avg@32 T=1 ≤2048 tokens, qwen-math`."""
    protocol = scores.protocol
    heat = "greedy" if protocol["temperature"] == 0 else f"T={protocol['temperature']:g}"
    subset = f", first {protocol['max_problems']}" if protocol.get("max_problems") else ""
    return f"Avg@{protocol['samples']} {heat}, {protocol['max_tokens']} tokens, {protocol['template']}{subset}"


def _standing(dataset: str, generation: int, by_benchmark: dict[str, Scores]) -> Standing:
    return Standing(
        dataset=dataset,
        generation=generation,
        policy_id=next(iter(by_benchmark.values())).policy_id,
        accuracy={name: accuracy_interval(scores.correct) for name, scores in by_benchmark.items()},
        protocol={name: describe_protocol(scores) for name, scores in by_benchmark.items()},
    )


def _mean(standing: Standing) -> float:
    return sum(interval.value for interval in standing.accuracy.values()) / len(standing.accuracy)
