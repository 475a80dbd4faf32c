"""The six benchmarks of the paper's Table 1: where they lie on the hub, and what is wrong with them."""

import re
from functools import partial
from pathlib import Path

from evals.benchmarks.hub import HubSource, read_hub
from evals.benchmarks.local import read_jsonl
from evals.benchmarks.types import AVG_32, GREEDY, Benchmark, ProblemSource, Row, no_flaw
from pipeline.errors import TbrmError
from pipeline.prompts import Problem
from pipeline.rewards.text import final_boxes

_EXAM_URL = re.compile(r"/20\d\d_(?:AIME|AMC)_(\w+?)_Problems/Problem_(\d+)")
_RELAY = re.compile(r"T\s*=\s*T\s*N\s*Y\s*W\s*R")
_RELAY_SOLVABLE = "olympiadbench-2720"


def integer(text: object) -> str:
    """`025`, `27.0` and a number of degrees as the plain integer that the exam asks for. Raises ValueError."""
    plain = str(text).strip().removesuffix("^\\circ").strip("$ ")
    value = float(plain)
    if not value.is_integer():
        raise ValueError(f"{text!r} is not an integer answer")
    return str(int(value))


def boxed(solution: object) -> str:
    r"""The content of the last `\boxed{}` of a worked solution. Raises ValueError when there is none."""
    found = final_boxes(str(solution))
    if not found:
        raise ValueError("the solution has no \\boxed{} answer")
    return ", ".join(found)


def exam_id(name: str, row: Row, number: int) -> str:
    """`aime24-II-08` from the address of the problem's page; the row number where the row has no address."""
    found = _EXAM_URL.search(str(row.get("url", "")))
    return f"{name}-{found[1]}-{int(found[2]):02d}" if found else f"{name}-{number:03d}"


def _aime25_id(row: Row, number: int) -> str:
    """The repository holds AIME I, then AIME II, 15 problems each in order."""
    return f"aime25-{'I' if number < 15 else 'II'}-{number % 15 + 1:02d}"


def _plain(field: str, row: Row) -> str:
    return str(row[field])


def _torus(problem: Problem) -> str | None:
    wrong = problem.id == "aime24-II-08" and "internally tangent" not in problem.text
    return "says that the spheres touch the torus outside twice" if wrong else None


def _relay(problem: Problem) -> str | None:
    undefined = bool(_RELAY.search(problem.text)) and problem.id != _RELAY_SOLVABLE
    return "needs T, the number of another contestant, which is not given" if undefined else None


def _load(name: str, file: str, hub: HubSource, source: ProblemSource) -> list[Problem]:
    """`<folder>/<file>.jsonl`, else a copy of the repository at `<folder>/<hub id>`, else the hub."""
    if source.folder is None:
        return read_hub(hub, name)
    path, snapshot = Path(source.folder) / f"{file}.jsonl", Path(source.folder) / hub.id
    if path.is_file():
        return read_jsonl(path, name)
    if snapshot.is_dir():
        return read_hub(hub, name, snapshot)
    raise TbrmError(f"benchmark {name}: there is neither {path} nor {snapshot}; name their folder with --source")


def _origin(hub: HubSource) -> str:
    return f"{hub.id}@{str(hub.revision)[:12]}"


_AIME24 = HubSource(
    id="math-ai/aime24",
    revision="83a7f387baaa524a8bda0022eac0541582297103",
    question="problem",
    answer=lambda row: integer(boxed(row["solution"])),
    identify=partial(exam_id, "aime24"),
)
_AIME25 = HubSource(
    id="math-ai/aime25",
    revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
    question="problem",
    answer=lambda row: integer(row["answer"]),
    identify=_aime25_id,
)
_AMC23 = HubSource(
    id="math-ai/amc23",
    revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
    question="question",
    answer=lambda row: integer(row["answer"]),
    identify=lambda row, number: exam_id("amc23", row, number),
)
_MATH500 = HubSource(
    id="HuggingFaceH4/MATH-500",
    revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    question="problem",
    answer=partial(_plain, "answer"),
    identify=lambda row, number: f"math500/{str(row['unique_id']).removesuffix('.json')}",
)
_MINERVA = HubSource(
    id="math-ai/minervamath",
    revision="ee46ddc498933b1977577953250ca5c66be64f96",
    question="question",
    answer=partial(_plain, "answer"),
    identify=lambda row, number: f"minerva_math-{number:03d}",
)
_OLYMPIAD = HubSource(
    id="math-ai/olympiadbench",
    revision="4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84",
    question="question",
    answer=lambda row: str(row["final_answer"][0]).strip("$"),
    identify=lambda row, number: f"olympiadbench-{row['id']}",
)

SIX = (
    Benchmark(
        "aime24",
        "AIME 2024",
        partial(_load, "aime24", "aime24", _AIME24),
        AVG_32,
        _origin(_AIME24),
        (30,),
        "fb4a117c8529a82e",
        _torus,
        ("some copies misstate II-8",),
        hub=_AIME24.place,
    ),
    Benchmark(
        "aime25",
        "AIME 2025",
        partial(_load, "aime25", "aime25", _AIME25),
        AVG_32,
        _origin(_AIME25),
        (30,),
        "1a119ca4dec831e1",
        no_flaw,
        ("two wordings are in use; answers are equal",),
        hub=_AIME25.place,
    ),
    Benchmark(
        "amc23",
        "AMC 2023",
        partial(_load, "amc23", "amc23", _AMC23),
        AVG_32,
        _origin(_AMC23),
        (40,),
        "3df401db19d14098",
        no_flaw,
        ("40 of the 50 problems of AMC 12, recast to integer answers", "23 of them are in DAPO-Math-17k"),
        hub=_AMC23.place,
    ),
    Benchmark(
        "math500",
        "MATH500",
        partial(_load, "math500", "math500", _MATH500),
        GREEDY,
        _origin(_MATH500),
        (500,),
        "901656c2ebf4e83c",
        no_flaw,
        ("6 problems are in DAPO-Math-17k",),
        hub=_MATH500.place,
    ),
    Benchmark(
        "minerva",
        "Minerva Math",
        partial(_load, "minerva", "minerva_math", _MINERVA),
        GREEDY,
        _origin(_MINERVA),
        (272,),
        "30e68cadfb16001b",
        no_flaw,
        ("69 problems show an earlier part with its answer; copies that took that answer have 23 wrong ones",),
        hub=_MINERVA.place,
    ),
    Benchmark(
        "olympiadbench",
        "OlympiadBench",
        partial(_load, "olympiadbench", "olympiadbench", _OLYMPIAD),
        GREEDY,
        _origin(_OLYMPIAD),
        (675, 674),
        "90dbab65d8ee7ffa",
        _relay,
        ("14 of 675 need an undefined T", "5 are in DAPO-Math-17k"),
        hub=_OLYMPIAD.place,
        golds={"olympiadbench-2045": ("t(0,4]", "(0,4]")},
    ),
)
