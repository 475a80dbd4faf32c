"""The evaluation stage: from a policy and benchmarks to graded responses."""
