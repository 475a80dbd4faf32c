"""How a question becomes a prompt, exact to the byte (paper, App. G), and a row of the table `prompts`."""

import json
from collections.abc import Iterable
from typing import Any

from pipeline.prompts.problem import Problem
from pipeline.store import text_hash

QWEN_MATH = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{{}}.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
R1 = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {question}\nAssistant:"
)
_TEMPLATES = {"qwen-math": QWEN_MATH, "r1": R1, "raw": "{question}"}


def question_of(text: str) -> str:
    """The question inside a prompt of the paper's two templates; any other text as it is."""
    for template in (QWEN_MATH, R1):
        before, after = template.format(question="\0").split("\0")
        if text.startswith(before) and text.endswith(after):
            return text[len(before) : len(text) - len(after)]
    return text


def template_version(template: str) -> str:
    """Names the text of a template, so that scores by a changed one are told apart; `chat` is the policy's own."""
    return "chat" if template == "chat" else text_hash(_TEMPLATES.get(template, template))[:12]


def render(template: str, question: str, tokenizer: Any) -> str:
    """The prompt text of `question`. `chat` uses the tokenizer's own template with one user message.

    Special tokens stand in the text; it is tokenized without adding any.
    """
    if template == "chat":
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
    return _TEMPLATES[template].format(question=question)


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
