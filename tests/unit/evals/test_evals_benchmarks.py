"""Where problems come from: folders, copies of hub repositories, one's own definitions, generated tasks."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from evals.benchmarks.registry import find_benchmark, known_benchmarks, load_problems_of, problems_hash
from evals.benchmarks.six import boxed, integer
from evals.benchmarks.types import ProblemSource
from pipeline.errors import ConfigError, TbrmError
from pipeline.prompts import Problem

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "benchmarks"
SIX = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the benchmark files of {SHARED}")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "problem": f"What is {i}+1?", "answer": str(i + 1)} for i in range(count)]


def hub_copy(folder: Path, repository: str, rows: list[dict[str, Any]]) -> None:
    """A repository as `huggingface-cli download` leaves it."""
    (folder / repository).mkdir(parents=True)
    datasets.Dataset.from_list(rows).to_parquet(folder / repository / "test-00000-of-00001.parquet")


@needs_shared
@pytest.mark.parametrize("name", SIX)
def test_shared_files_are_what_the_registry_expects(name: str) -> None:
    benchmark = find_benchmark(name)
    problems = load_problems_of(benchmark, ProblemSource(str(SHARED)))
    assert problems_hash(problems) == benchmark.content_hash
    assert len({problem.id for problem in problems}) == len(problems)


@pytest.mark.parametrize("task", ["course_schedule", "largest_island", "shortest_path"])
def test_generated_tasks_are_the_same_everywhere(task: str) -> None:
    benchmark = find_benchmark(f"gym_{task}")
    problems = load_problems_of(benchmark, ProblemSource(None))
    assert problems_hash(problems) == benchmark.content_hash
    assert problems[0].verifier == "reasoning_gym"


def test_hub_columns_of_each_benchmark(tmp_path: Path) -> None:
    exam = "https://artofproblemsolving.com/wiki/index.php/2024_AIME_II_Problems/Problem_{}"
    amc = "https://artofproblemsolving.com/wiki/index.php/2023_AMC_12A_Problems/Problem_{}"
    hub_copy(
        tmp_path,
        "math-ai/aime24",
        [{"problem": f"q{i}", "solution": f"so \\boxed{{0{i}}}", "url": exam.format(i + 1)} for i in range(30)],
    )
    hub_copy(tmp_path, "math-ai/aime25", [{"problem": f"q{i}", "answer": f"{i}^\\circ"} for i in range(30)])
    hub_copy(
        tmp_path,
        "math-ai/amc23",
        [{"question": f"q{i}", "answer": float(i), "url": amc.format(i + 1)} for i in range(40)],
    )
    hub_copy(
        tmp_path,
        "HuggingFaceH4/MATH-500",
        [{"problem": f"q{i}", "answer": "\\frac12", "unique_id": f"test/algebra/{i}.json"} for i in range(500)],
    )
    hub_copy(tmp_path, "math-ai/minervamath", [{"question": f"q{i}", "answer": "1"} for i in range(272)])
    hub_copy(
        tmp_path,
        "math-ai/olympiadbench",
        [{"question": f"q{i}", "final_answer": ["$5$"], "id": i} for i in range(674)],
    )
    found = {name: load_problems_of(find_benchmark(name), ProblemSource(str(tmp_path))) for name in SIX}
    assert [(p.id, p.answer) for p in (problems[7] for problems in found.values())] == [
        ("aime24-II-08", "7"),
        ("aime25-I-08", "7"),
        ("amc23-12A-08", "7"),
        ("math500/test/algebra/7", "\\frac12"),
        ("minerva_math-007", "1"),
        ("olympiadbench-7", "5"),
    ]
    assert found["aime25"][29].id == "aime25-II-15"


def test_flaws_are_found_in_the_text(tmp_path: Path) -> None:
    aime, olympiad = find_benchmark("aime24"), find_benchmark("olympiadbench")
    assert aime.flaw(Problem("aime24-II-08", "tangent outside", "1", "aime24"))
    assert aime.flaw(Problem("aime24-II-08", "internally tangent", "1", "aime24")) is None
    assert olympiad.flaw(Problem("olympiadbench-2721", "Let $T=T N Y W R$.", "1", "o"))
    assert olympiad.flaw(Problem("olympiadbench-2720", "Let $T=T N Y W R$.", "1", "o")) is None


def test_a_repository_with_other_columns_is_refused(tmp_path: Path) -> None:
    hub_copy(tmp_path, "math-ai/amc23", [{"text": "q", "answer": 1.0}] * 40)
    with pytest.raises(TbrmError, match=r"row 0.*the row has text, answer"):
        load_problems_of(find_benchmark("amc23"), ProblemSource(str(tmp_path)))


def test_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "aime24.jsonl", rows_of(29))
    with pytest.raises(TbrmError, match="29 problems, expected 30"):
        load_problems_of(find_benchmark("aime24"), ProblemSource(str(tmp_path)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nonsense", "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ('{"id": "p0", "problem": "q", "answer": "1"}', "'p0' stands twice"),
        ('{"id": "x", "problem": "q"}', "line 2: field 'answer' is missing; the row has id, problem"),
        ('{"id": "x", "problem": "", "answer": "1"}', "line 2: field 'problem' holds ''"),
        ('{"id": "x", "problem": "q", "answer": true}', "field 'answer' holds True"),
        ('{"id": "x", "problem": "q", "answer": "1", "extra": 3}', "field 'extra' must be an object"),
    ],
)
def test_damaged_files_name_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "aime24.jsonl"
    write_jsonl(path, rows_of(1))
    path.write_text(path.read_text() + line + "\n", encoding="utf-8")
    with pytest.raises(TbrmError, match=message):
        find_benchmark("aime24").load(ProblemSource(str(tmp_path)))


def test_ones_own_benchmark(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sums.jsonl", [{"nr": i, "q": f"{i}+1", "gold": i + 1} for i in range(3)])
    (tmp_path / "sums.yaml").write_text(
        "name: my_sums\nproblems: sums.jsonl\ncolumns: {id: nr, problem: q, answer: gold}\nverifier: exact_integer\n"
        "protocol: {samples: 8, temperature: 0.6}\nrows: 3\n",
        encoding="utf-8",
    )
    benchmark = known_benchmarks(str(tmp_path))["my_sums"]
    problems = load_problems_of(benchmark, ProblemSource(None))
    assert [(p.id, p.text, p.answer, p.verifier) for p in problems][1] == ("1", "1+1", "2", "exact_integer")
    assert benchmark.protocol.samples == 8
    assert find_benchmark(str(tmp_path / "sums.yaml")).name == "my_sums"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: Bad Name\nproblems: x\n", "name"),
        ("name: x\n", "give `problems`, a JSONL file, or `hub`"),
        ("name: x\nproblems: x\nnonsense: 1\n", "nonsense"),
        ("name: x\nhub: {id: a/b}\n", "hub.revision"),
        ("name: aime24\nproblems: x\n", "the name 'aime24' is taken"),
    ],
)
def test_wrong_definitions_name_the_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "one.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        known_benchmarks(str(tmp_path))


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(TbrmError, match=r"no benchmark 'aime23'.*aime24.*reasoning_gym"):
        find_benchmark("aime23")


@pytest.mark.parametrize(("given", "expected"), [("025", "25"), ("27.0", "27"), ("336^\\circ", "336"), (-3.0, "-3")])
def test_integer_answers(given: object, expected: str) -> None:
    assert integer(given) == expected


def test_answers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="not an integer"):
        integer("2.5")
    with pytest.raises(ValueError, match="no \\\\boxed"):
        boxed("the answer is 5")
