"""The trajectories that a training job reads."""
