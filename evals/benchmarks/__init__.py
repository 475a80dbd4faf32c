"""The benchmarks: where their problems come from, what is wrong with them upstream, and the paper's protocol."""
