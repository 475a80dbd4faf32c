"""Which prompts count as benchmark problems, and that they can be left out."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.prompts import OverlapConfig, PromptsConfig
from pipeline.errors import TbrmError
from pipeline.prompts import Problem, load_problems
from pipeline.prompts.contamination import Benchmarks, find_pairs, load_benchmarks, without_overlap
from pipeline.prompts.generation import QWEN_MATH, R1, question_of

LONG = (
    "A train leaves the station at noon and travels north at $\\dfrac{5}{2}$ times the speed of a cyclist who left two "
    "hours before it on the same road. When does the train pass the cyclist, and how far from the station are they?"
)
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def problem(text: str, answer: str = "4", name: str = "b") -> Problem:
    return Problem(name, text, answer, "test")


def kinds(benchmark: str, prompt: str) -> list[tuple[str, float]]:
    found = Benchmarks({"bench": [problem(benchmark)]}).pairs_of(problem(prompt, name="p"))
    return [(pair.kind, pair.overlap) for pair in found]


@pytest.mark.parametrize(
    "prompt",
    [
        "What is $x+1$ for $x=\\frac{1}{2}$?",
        "what is  \\(x + 1\\) for \\( x = \\dfrac{1}{2} \\) ?",
        "What is $\\left.x+1\\right.$ for $x=\\tfrac12$?",
        "What is x+1 for x=\x0crac{1}{2}?",
    ],
)
def test_spacing_delimiters_and_layout_do_not_hide_an_equal_text(prompt: str) -> None:
    text = "What is $x+1$ for $x=\\frac{1}{2}$?" if "left" not in prompt else "What is $.x+1.$ for $x=\\frac12$?"
    assert kinds(text, prompt) == [("exact", 1.0)]


@pytest.mark.parametrize("prompt", ["What is $x-1$?", "What is $x+2$?", "", "What is $x+1$, and why?"])
def test_another_sign_or_number_is_another_problem(prompt: str) -> None:
    assert kinds("What is $x+1$?", prompt) == []


def test_half_of_the_13_grams_count() -> None:
    assert kinds(LONG, f"Solve with care. {LONG} Give an integer.") == [("near", 1.0)]
    words = LONG.split()
    assert kinds(LONG, " ".join(words[:12])) == []
    [(kind, share)] = kinds(LONG, " ".join(words[: len(words) * 3 // 4]))
    assert kind == "near"
    assert 0.5 <= share < 1
    assert kinds(LONG, " ".join(words[: len(words) // 2])) == []


def test_a_repeated_prompt_is_reported_once_and_the_summary_counts_problems() -> None:
    benchmarks = Benchmarks({"one": [problem(LONG, name="a"), problem("short", name="b")], "two": [problem("other")]})
    prompts = [problem(LONG, name="p"), problem(LONG, name="p"), problem(f"{LONG} Why?", "7", "q")]
    pairs = list(find_pairs(iter(prompts), benchmarks))
    assert [(pair.prompt_id, pair.kind, pair.same_answer) for pair in pairs] == [
        ("p", "exact", True),
        ("q", "near", False),
    ]
    rows = {row.benchmark: (row.problems, row.exact, row.near, row.same_answer) for row in benchmarks.summary(pairs)}
    assert rows == {"one": (2, 1, 0, 1), "two": (1, 0, 0, 0)}


def test_templates_of_the_paper_are_taken_off() -> None:
    for template in (QWEN_MATH, R1):
        assert question_of(template.format(question=LONG)) == LONG
    assert question_of(LONG) == LONG


def write_rows(path: Path, texts: list[str]) -> None:
    rows: list[dict[str, Any]] = [{"id": f"i{i}", "problem": text, "answer": "4"} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_overlapping_prompts_are_left_out_by_configuration(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    write_rows(tmp_path / "benchmarks" / "minerva_math.jsonl", [LONG])
    write_rows(tmp_path / "train.jsonl", ["one", LONG, "two"])
    overlap = OverlapConfig(source=str(tmp_path / "benchmarks"), benchmarks=("minerva",))
    config = PromptsConfig(source="file", path=str(tmp_path / "train.jsonl"), per_generation=1, exclude_overlap=overlap)
    assert [p.text for p in load_problems(config, 0)] == ["one", "two"]
    write_rows(tmp_path / "train.jsonl", [LONG])
    with pytest.raises(TbrmError, match="leaves none of 1 problems"):
        load_problems(config, 0)
    with pytest.raises(TbrmError, match=r"no benchmark 'aime'; there are minerva_math"):
        load_benchmarks(str(tmp_path / "benchmarks"), ["aime"])
    with pytest.raises(TbrmError, match="holds no benchmark files"):
        load_benchmarks(str(tmp_path / "nowhere"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the public benchmark files beside the checkout")
def test_dapo_contains_23_of_the_40_problems_of_amc23() -> None:
    benchmarks = load_benchmarks(str(SHARED / "benchmarks"), ["amc23"])
    config = PromptsConfig(source="file", path=str(SHARED / "prompts" / "dapo_math_17k.jsonl"), per_generation=1)
    problems = load_problems(config, 0)
    pairs = list(find_pairs(problems, benchmarks))
    listed = [json.loads(line) for line in (SHARED / "prompts" / "overlap_with_benchmarks.jsonl").open()]
    expected = {
        row["benchmark_id"] for row in listed if (row["prompt_file"], row["benchmark"]) == ("dapo_math_17k", "amc23")
    }
    assert len(expected) == 23
    assert {pair.problem_id for pair in pairs} == expected
    [row] = benchmarks.summary(pairs)
    assert (row.exact + row.near, row.same_answer) == (23, 20)
    left = without_overlap(problems, OverlapConfig(source=str(SHARED / "benchmarks"), benchmarks=("amc23",)))
    assert not list(find_pairs(left, benchmarks))
