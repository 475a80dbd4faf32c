"""The registry: every benchmark known by name."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from evals.benchmarks.local import read_jsonl
from evals.benchmarks.types import AVG_32, GREEDY, Benchmark, ProblemSource
from pipeline.config.evaluation import Protocol
from pipeline.errors import TbrmError
from pipeline.prompts import Problem, heldout_problems
from pipeline.store import text_hash

HELDOUT_SAMPLES = 4


def _heldout(source: ProblemSource) -> list[Problem]:
    if source.experiment is None:
        raise TbrmError("the benchmark heldout belongs to an experiment: add --experiment")
    return heldout_problems(source.experiment)


def _file(name: str, source: ProblemSource) -> list[Problem]:
    if source.folder is None:
        raise TbrmError(f"benchmark {name}: name the folder that holds {name}.jsonl (`evaluation.source` or --source)")
    return read_jsonl(Path(source.folder) / f"{name}.jsonl", name)


def _six(name: str, title: str, protocol: Protocol, rows: int, file: str | None = None) -> Benchmark:
    return Benchmark(name, title, partial(_file, file or name), protocol, "", rows)


_ALL = (
    _six("aime24", "AIME 2024", AVG_32, 30),
    _six("aime25", "AIME 2025", AVG_32, 30),
    _six("amc23", "AMC 2023", AVG_32, 40),
    _six("math500", "MATH500", GREEDY, 500),
    _six("minerva", "Minerva Math", GREEDY, 272, "minerva_math"),
    _six("olympiadbench", "OlympiadBench", GREEDY, 675),
    Benchmark("heldout", "Held-out problems, greedy", _heldout, GREEDY, "the experiment's prompt source"),
    Benchmark(
        "heldout_sampled",
        "Held-out problems, sampled",
        _heldout,
        Protocol(benchmark="heldout", samples=HELDOUT_SAMPLES, temperature=1.0),
        "the experiment's prompt source",
    ),
)
REGISTRY: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by name. Raises TbrmError naming those there are."""
    if name not in REGISTRY:
        raise TbrmError(f"there is no benchmark {name!r}; there are {', '.join(REGISTRY)}")
    return REGISTRY[name]


def problems_hash(problems: list[Problem]) -> str:
    """Content hash of a problem set: ids, questions and answers in their order; 16 hex digits."""
    return text_hash("\x1e".join("\x1f".join((p.id, p.text, p.answer)) for p in problems))[:16]
