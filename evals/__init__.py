"""Benchmarks, the Avg@k protocol, intervals, comparison tables and plots."""
