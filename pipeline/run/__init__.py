"""How a stage runs: shard by shard, resumable, with its progress and its report."""
