"""Prompt sets: problems from a source, shown through a template, drawn generation by generation."""

from pipeline.prompts.generation import heldout_problems, load_problems, prompt_row, render
from pipeline.prompts.problems import Problem

__all__ = ["Problem", "heldout_problems", "load_problems", "prompt_row", "render"]
