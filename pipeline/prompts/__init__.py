"""Prompt sets: problems from a source, shown through a template, drawn generation by generation."""

from pipeline.prompts.generation import heldout_problems, load_problems
from pipeline.prompts.problem import Problem
from pipeline.prompts.templates import prompt_row, render

__all__ = ["Problem", "heldout_problems", "load_problems", "prompt_row", "render"]
