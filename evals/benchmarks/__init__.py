"""The benchmarks: where their problems come from, what is wrong with them upstream, and the paper's protocol."""

from evals.benchmarks.registry import (
    SUITES,
    find_benchmark,
    known_benchmarks,
    load_problems_of,
    problems_hash,
)
from evals.benchmarks.types import Benchmark, ProblemSource

__all__ = [
    "SUITES",
    "Benchmark",
    "ProblemSource",
    "find_benchmark",
    "known_benchmarks",
    "load_problems_of",
    "problems_hash",
]
