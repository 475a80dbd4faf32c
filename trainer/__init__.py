"""The DeepSpeed job that minimizes an objective over stored trajectories."""
