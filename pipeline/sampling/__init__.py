"""Sampling: prompts become rollouts."""
