"""The benchmarks: where their problems come from, what is wrong with them upstream, and the paper's protocol."""

from evals.benchmarks.registry import REGISTRY, find_benchmark, problems_hash
from evals.benchmarks.types import Benchmark, ProblemSource

__all__ = ["REGISTRY", "Benchmark", "ProblemSource", "find_benchmark", "problems_hash"]
