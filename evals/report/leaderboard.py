"""Accuracies side by side: every scored policy of a store, one policy as Markdown, and the paper's own figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.run.targets import evaluated
from evals.statistics.intervals import Interval, accuracy_interval
from evals.statistics.metrics import summarize
from evals.statistics.scores import Scores, read_scores
from pipeline.markdown import markdown_table
from pipeline.store import Store

COLUMNS: tuple[str, ...] = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")
"""Of the paper's Table 1 (arXiv 2505.15311), in percent. AIME and AMC are Avg@32 at temperature 1, the
others greedy Avg@1; the paper states no intervals."""

TABLE_1: Mapping[str, tuple[float, ...]] = {
    "Qwen2.5-Math-1.5B": (5.0, 1.9, 24.9, 63.4, 16.5, 30.8),
    "1.5B PPO n=1": (11.4, 4.5, 46.6, 72.2, 26.8, 36.0),
    "1.5B TBRM n=1": (13.2, 5.6, 48.6, 72.2, 27.2, 35.7),
    "1.5B GRPO n=4": (13.0, 7.1, 49.9, 71.2, 28.7, 37.5),
    "1.5B TBRM n=4": (14.3, 6.9, 52.0, 72.2, 30.5, 36.1),
    "Qwen2.5-Math-7B": (10.6, 2.8, 31.6, 67.4, 13.2, 29.3),
    "7B PPO n=1": (25.4, 13.2, 63.4, 76.4, 33.8, 39.3),
    "7B TBRM n=1": (24.1, 13.2, 63.4, 78.6, 36.4, 41.5),
    "7B GRPO n=4": (28.9, 10.7, 66.8, 79.8, 36.0, 42.5),
    "7B TBRM n=4": (30.5, 13.1, 68.4, 79.8, 36.4, 44.1),
    "7B GRPO n=16, 100 steps": (26.6, 11.0, 61.8, 77.8, 32.7, 40.4),
    "7B TBRM n=16, 100 steps": (27.9, 10.9, 62.8, 76.4, 33.5, 39.9),
}

GYM_COLUMNS = ("course_schedule", "family_relationships", "largest_island", "quantum_lock", "shortest_path")
GYM_TABLE: Mapping[str, tuple[float, ...]] = {
    "Qwen2.5-Math-1.5B": (29.5, 3.0, 11.0, 5.5, 0.0),
    "1.5B GRPO": (54.0, 84.0, 34.0, 30.5, 26.0),
    "1.5B TBRM": (60.0, 80.0, 38.0, 27.0, 31.0),
}
"""reasoning-gym, greedy, 100 test problems each, in percent."""


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
    """`Avg@32 T=1, 2048 tokens, qwen-math`."""
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


def scores_markdown(scores: Mapping[str, Scores], root: str) -> str:
    """A table of one policy's accuracies with 95% intervals; below it the paper's figures of the same benchmarks."""
    head = ("benchmark", "accuracy %", "problems", "protocol", "cut %", "without answer %", "tokens", "responses")
    rows = list[list[str]]()
    for name, one in scores.items():
        found = summarize(one)
        tokens = found.response_tokens
        rows.append(
            [
                *(name, f"**{found.accuracy.percent()}**", str(found.problems), describe_protocol(one)),
                *(found.truncated.percent(), found.unparsed.percent()),
                *(f"{tokens.value:.0f} [{tokens.low:.0f}, {tokens.high:.0f}]", f"`{root}/{one.responses}`"),
            ]
        )
    return markdown_table(head, rows) + paper_markdown(list(scores))


def paper_markdown(names: list[str]) -> str:
    """The paper's rows for those of `names` that it measures; empty when it measures none."""
    parts: list[str] = []
    for title, columns, prefix, table in (
        ("Table 1", COLUMNS, "", TABLE_1),
        ("reasoning-gym", GYM_COLUMNS, "gym_", GYM_TABLE),
    ):
        shown = [column for column in columns if f"{prefix}{column}" in names]
        if not shown:
            continue
        parts += ["", f"arXiv 2505.15311, {title}, accuracy in percent (stated without intervals):", ""]
        cells = {row: dict(zip(columns, values, strict=True)) for row, values in table.items()}
        parts.append(markdown_table(["", *shown], [[row, *(f"{of[c]:g}" for c in shown)] for row, of in cells.items()]))
    return "\n".join(["", *parts]) if parts else ""
