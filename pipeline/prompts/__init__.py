"""Prompt sets: problems from a source, shown through a template, drawn generation by generation."""

from pipeline.prompts.problem import Problem
from pipeline.prompts.sampling import heldout_problems, problems_of_generation
from pipeline.prompts.sources import load_problems
from pipeline.prompts.table import prompt_row, prompt_rows
from pipeline.prompts.templates import render

__all__ = [
    "Problem",
    "heldout_problems",
    "load_problems",
    "problems_of_generation",
    "prompt_row",
    "prompt_rows",
    "render",
]
