"""The five graph and puzzle tasks of reasoning-gym that the paper trains on: 100 test problems each, made here."""

import json
from functools import partial

from evals.benchmarks.types import GREEDY, Benchmark, ProblemSource
from pipeline.errors import needing
from pipeline.prompts import Problem

ROWS = 100
SEED = 20_250_515
"""Of the test problems. Training problems have seeds of their own, which depend on the experiment's."""
_HASHES = {
    "course_schedule": "e02ef6b8fa5c3f47",
    "family_relationships": "bf5ab642c5074280",
    "largest_island": "dec7bd88e26ae10d",
    "quantum_lock": "2df2c46ac220cb58",
    "shortest_path": "e21b488583f84c04",
}
"""Content hash of each by reasoning-gym 0.1.25: another version of the package makes other problems."""


def _make(task: str, source: ProblemSource) -> list[Problem]:
    with needing("gym", f"the benchmark gym_{task}"):
        import reasoning_gym

    del source
    name = f"gym_{task}"
    problems: list[Problem] = []
    for number, entry in enumerate(reasoning_gym.create_dataset(task, size=ROWS, seed=SEED)):
        extra = {"task": task, "entry": json.loads(json.dumps(entry, default=str))}
        text, answer = str(entry["question"]), str(entry["answer"])
        problems.append(Problem(f"{name}-{number:03d}", text, answer, name, "reasoning_gym", extra))
    return problems


GYM = tuple(
    Benchmark(
        name=f"gym_{task}",
        title=f"reasoning-gym {task}",
        load=partial(_make, task),
        protocol=GREEDY,
        origin="reasoning-gym 0.1.25",
        rows=(ROWS,),
        content_hash=content_hash,
        verifiers=("reasoning_gym",),
        tasks=(task,),
    )
    for task, content_hash in _HASHES.items()
)
