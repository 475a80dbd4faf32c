"""The six benchmarks of the paper's Table 1: where they lie on the hub, and what is wrong with them."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from evals.benchmarks.sources import read_hub, read_jsonl
from evals.benchmarks.types import AVG_32, GREEDY, Benchmark, HubSource, ProblemSource, Row, no_flaw
from pipeline.config.evaluation import Protocol
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


def _on_hub(
    name: str,
    title: str,
    protocol: Protocol,
    rows: tuple[int, ...],
    content_hash: str,
    remarks: tuple[str, ...],
    hub: HubSource,
    flaw: Callable[[Problem], str | None] = no_flaw,
    file: str | None = None,
    golds: Mapping[str, tuple[str, str]] | None = None,
) -> Benchmark:
    """A benchmark of the hub; `file` names its JSONL file in a folder, where that is not the benchmark's name."""
    load = partial(_load, name, file or name, hub)
    return Benchmark(
        name, title, load, protocol, hub.origin, rows, content_hash, flaw, remarks, hub=hub, golds=golds or {}
    )


SIX = (
    _on_hub(
        "aime24",
        "AIME 2024",
        AVG_32,
        (30,),
        "fb4a117c8529a82e",
        ("some copies misstate II-8",),
        HubSource(
            id="math-ai/aime24",
            revision="83a7f387baaa524a8bda0022eac0541582297103",
            question="problem",
            answer=lambda row: integer(boxed(row["solution"])),
            identify=partial(exam_id, "aime24"),
        ),
        flaw=_torus,
    ),
    _on_hub(
        "aime25",
        "AIME 2025",
        AVG_32,
        (30,),
        "1a119ca4dec831e1",
        ("two wordings are in use; answers are equal",),
        HubSource(
            id="math-ai/aime25",
            revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
            question="problem",
            answer=lambda row: integer(row["answer"]),
            identify=_aime25_id,
        ),
    ),
    _on_hub(
        "amc23",
        "AMC 2023",
        AVG_32,
        (40,),
        "3df401db19d14098",
        ("40 of the 50 problems of AMC 12, recast to integer answers", "23 of them are in DAPO-Math-17k"),
        HubSource(
            id="math-ai/amc23",
            revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
            question="question",
            answer=lambda row: integer(row["answer"]),
            identify=partial(exam_id, "amc23"),
        ),
    ),
    _on_hub(
        "math500",
        "MATH500",
        GREEDY,
        (500,),
        "901656c2ebf4e83c",
        ("6 problems are in DAPO-Math-17k",),
        HubSource(
            id="HuggingFaceH4/MATH-500",
            revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            question="problem",
            answer=lambda row: str(row["answer"]),
            identify=lambda row, number: f"math500/{str(row['unique_id']).removesuffix('.json')}",
        ),
    ),
    _on_hub(
        "minerva",
        "Minerva Math",
        GREEDY,
        (272,),
        "30e68cadfb16001b",
        ("69 problems show an earlier part with its answer; copies that took that answer have 23 wrong ones",),
        HubSource(
            id="math-ai/minervamath",
            revision="ee46ddc498933b1977577953250ca5c66be64f96",
            question="question",
            answer=lambda row: str(row["answer"]),
            identify=lambda row, number: f"minerva_math-{number:03d}",
        ),
        file="minerva_math",
    ),
    _on_hub(
        "olympiadbench",
        "OlympiadBench",
        GREEDY,
        (675, 674),
        "90dbab65d8ee7ffa",
        ("14 of 675 need an undefined T", "5 are in DAPO-Math-17k"),
        HubSource(
            id="math-ai/olympiadbench",
            revision="4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84",
            question="question",
            answer=lambda row: str(row["final_answer"][0]).strip("$"),
            identify=lambda row, number: f"olympiadbench-{row['id']}",
        ),
        flaw=_relay,
        golds={"olympiadbench-2045": ("t(0,4]", "(0,4]")},
    ),
)
