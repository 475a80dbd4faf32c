"""What a benchmark is: problems from somewhere, and the protocol of the paper for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.config import Experiment
from pipeline.config.evaluation import Protocol
from pipeline.prompts import Problem

GREEDY = Protocol(samples=1, temperature=0.0)
AVG_32 = Protocol(samples=32, temperature=1.0)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class ProblemSource:
    """Where problems may come from: a folder (None: the hub), and the experiment being evaluated."""

    folder: str | None
    experiment: Experiment | None = None


@dataclass(frozen=True)
class HubSource:
    """A data set repository. `answer` reads the gold answer of a row, `identify` names row number n (from 0)."""

    id: str
    revision: str | None
    question: str
    answer: Callable[[Row], str]
    identify: Callable[[Row, int], str]
    split: str = "test"
    config: str | None = None

    @property
    def origin(self) -> str:
        """Repository and commit, for people."""
        return f"{self.id}@{str(self.revision)[:12]}"


def no_flaw(problem: Problem) -> str | None:
    """A benchmark without known defects."""
    del problem


@dataclass(frozen=True)
class Benchmark:
    """A named set of problems with its protocol.

    `rows` are the row counts that its known forms have, `content_hash` is that of the form our figures were made with
    (None: not fixed). `flaw` tells why a problem cannot be answered as stated, None for a sound one: flawed problems
    are asked and counted as the paper does, and a second accuracy leaves them out. `verifiers` and `tasks` are the
    built-in verifiers and the tasks of reasoning-gym that its problems may name, besides those of the experiment.
    `hub` is where the problems come from when no folder has them. `golds` are gold answers, by problem id,
    that are not understood as they are found, each with the form that we grade by.
    """

    name: str
    title: str
    load: Callable[[ProblemSource], list[Problem]]
    protocol: Protocol
    origin: str
    rows: tuple[int, ...] = ()
    content_hash: str | None = None
    flaw: Callable[[Problem], str | None] = no_flaw
    remarks: tuple[str, ...] = ()
    verifiers: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    hub: HubSource | None = None
    golds: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])

    def with_our_golds(self, problems: list[Problem]) -> list[Problem]:
        """The problems with our forms of those gold answers that are found as `golds` expects them."""
        return [
            replace(problem, answer=self.golds[problem.id][1])
            if problem.id in self.golds and problem.answer == self.golds[problem.id][0]
            else problem
            for problem in problems
        ]
