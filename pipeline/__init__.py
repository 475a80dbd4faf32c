"""The data plane: prompts, rollouts, rewards and reference log-probs as checked Parquet tables."""
