"""The loop of a training job: packs, updates, metrics."""
