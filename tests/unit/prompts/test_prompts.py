"""Templates to the byte, draws without repetition, and prompt files that say what is wrong with them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import load_experiment
from pipeline.config.prompts import PromptsConfig
from pipeline.errors import TbrmError
from pipeline.logged.scripted import wrong_sum
from pipeline.prompts import Problem, heldout_problems, load_problems, render
from pipeline.prompts.generation import problems_of_generation, prompt_rows

ROWS = [{"id": f"q{i}", "problem": f"What is {i}+{i}?", "answer": str(2 * i)} for i in range(5)]


def prompts(**fields: Any) -> PromptsConfig:
    return PromptsConfig.model_validate({"source": "file", "per_generation": 4, **fields})


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_qwen_math_template_to_the_byte() -> None:
    assert render("qwen-math", "1+1? {x} \\boxed{}", None) == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n1+1? {x} \\boxed{}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_r1_template_to_the_byte() -> None:
    text = render("r1", "1+1?", None)
    assert text.startswith("A conversation between User and Assistant. The user asks a question, and the Assistant")
    assert "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: 1+1?" in text
    assert text.endswith("User: 1+1?\nAssistant:")


def test_heldout_problems_are_never_trained_on() -> None:
    experiment = load_experiment("arith_tiny")
    training = {p.id for p in load_problems(experiment.prompts, experiment.seed)}
    heldout = {p.id for p in heldout_problems(experiment)}
    assert len(heldout) == experiment.prompts.arithmetic.heldout
    assert not training & heldout
    assert len(training | heldout) == 90 * 90


def test_generations_draw_without_repetition_until_the_set_is_used_up() -> None:
    problems = [Problem(str(i), "", "", "test") for i in range(10)]
    drawn = [p.id for g in range(5) for p in problems_of_generation(problems, 4, g, seed=1)]
    assert set(Counter(drawn).values()) == {2}
    assert set(Counter(drawn[:8]).values()) == {1}
    assert all(len(set(drawn[i : i + 4])) == 4 for i in range(0, 20, 4)), "no problem twice in one generation"
    again = [p.id for p in problems_of_generation(problems, 4, 3, seed=1)]
    assert again == drawn[12:16]
    with pytest.raises(TbrmError, match=r"rollouts\.n"):
        problems_of_generation(problems, 11, 0, seed=1)


def test_a_wrong_sum_is_wrong_by_the_carry() -> None:
    assert wrong_sum("27+38=") == "55"
    assert wrong_sum("21+34=") == "65"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder"])
def test_the_same_problems_from_every_kind_of_source(tmp_path: Path, kind: str) -> None:
    if kind == "jsonl":
        config = prompts(path=write_jsonl(tmp_path / "set.jsonl", ROWS))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "set.parquet")
        config = prompts(path=str(tmp_path / "set.parquet"))
    else:
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "set"))
        config = prompts(source="hf", path=str(tmp_path / "set"))
    found = load_problems(config, seed=0)
    assert [(p.id, p.text, p.answer) for p in found] == [(r["id"], r["problem"], r["answer"]) for r in ROWS]


def test_the_gold_answer_behind_a_mark(tmp_path: Path) -> None:
    row = {"question": "How many?", "solution": "3 + 4 = 7.\n#### 7"}
    path = write_jsonl(tmp_path / "gsm.jsonl", [row])
    columns = {"problem": "question", "answer": "solution", "answer_after": "####"}
    assert load_problems(prompts(path=path, columns=columns), seed=0)[0].answer == "7"
    with pytest.raises(TbrmError, match=r"line 1: field 'solution' does not contain '==>'"):
        load_problems(prompts(path=path, columns=columns | {"answer_after": "==>"}), seed=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"problem": "x"}', "line 2: field 'answer' is missing; the row has problem"),
        ('{"problem": ["x"], "answer": "1"}', "line 2: field 'problem' holds list"),
        ('{"problem": "x", "answer": true}', "line 2: field 'answer' holds bool"),
        ("not json", "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        (json.dumps(ROWS[0]), "id 'q0' stands twice"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(TbrmError, match=message):
        load_problems(prompts(path=str(path)), seed=0)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(TbrmError, match=r"nowhere\.jsonl does not exist"):
        load_problems(prompts(path="nowhere.jsonl"), seed=0)


def test_reasoning_gym_problems_carry_what_their_scorer_needs() -> None:
    settings = {"tasks": ["shortest_path", "family_relationships"], "size": 3}
    found = load_problems(prompts(source="reasoning_gym", reasoning_gym=settings), seed=5)
    assert [p.verifier for p in found] == ["reasoning_gym"] * 6
    assert found[0].extra["task"] == "shortest_path"
    assert found == load_problems(prompts(source="reasoning_gym", reasoning_gym=settings), seed=5)


class _Words:
    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return list(range(len(text.split())))


def test_prompts_that_are_too_long_are_set_aside_with_their_position() -> None:
    problems = [Problem("short", "a b", "1", "t"), Problem("long", "a b c d", "1", "t")]
    rows, left_out = prompt_rows(problems, "raw", _Words(), max_tokens=3)
    assert [row["prompt_id"] for row in rows] == ["short"]
    assert [(position, row["prompt_id"]) for position, row in left_out] == [(1, "long")]
