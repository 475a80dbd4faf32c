"""What a benchmark is: problems from somewhere, and the protocol of the paper for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.config import Experiment
from pipeline.config.evaluation import Protocol
from pipeline.prompts import Problem

GREEDY = Protocol(samples=1, temperature=0.0)
AVG_32 = Protocol(samples=32, temperature=1.0)


@dataclass(frozen=True)
class ProblemSource:
    """Where problems may come from: a folder of JSONL files (None: the hub), and the experiment being evaluated."""

    folder: str | None
    experiment: Experiment | None = None


@dataclass(frozen=True)
class Benchmark:
    """A named set of problems. `rows` and `content_hash` are what loading must give; None where that depends."""

    name: str
    title: str
    load: Callable[[ProblemSource], list[Problem]]
    protocol: Protocol
    origin: str
    rows: int | None = None
    content_hash: str | None = None
    remarks: tuple[str, ...] = ()


Row = Mapping[str, JsonValue]
