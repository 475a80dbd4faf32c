"""Problems as rows of the `prompts` table."""

import json
from collections.abc import Iterable
from typing import Any

from pipeline.prompts.problem import Problem
from pipeline.prompts.templates import render


def prompt_row(problem: Problem, template: str, tokenizer: Any) -> dict[str, Any]:
    """One row of `prompts`. Special tokens stand in the template's text, so the tokenizer adds none.

    `verifier` stays empty where the problem needs none of its own: whoever labels the responses chooses it.
    """
    text = render(template, problem.text, tokenizer)
    return {
        "prompt_id": problem.id,
        "prompt_text": text,
        "prompt_token_ids": tokenizer.encode(text, add_special_tokens=False),
        "answer": problem.answer,
        "verifier": problem.verifier or "",
        "source": problem.source,
        "extra": json.dumps(problem.extra, sort_keys=True),
    }


def prompt_rows(
    problems: Iterable[Problem], template: str, tokenizer: Any, max_tokens: int
) -> tuple[list[dict[str, Any]], list[tuple[int, dict[str, Any]]]]:
    """(rows, those left out because their prompt is longer than `max_tokens`, each with its position in the draw)."""
    rows = [prompt_row(problem, template, tokenizer) for problem in problems]
    fits = [len(row["prompt_token_ids"]) <= max_tokens for row in rows]
    kept = [row for row, good in zip(rows, fits, strict=True) if good]
    return kept, [(i, row) for i, (row, good) in enumerate(zip(rows, fits, strict=True)) if not good]
