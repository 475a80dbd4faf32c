"""Accuracies with their intervals, and differences of policies."""
