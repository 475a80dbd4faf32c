"""Benchmarks, the Avg@k protocol, intervals, comparisons and reports."""
