"""One experiment: where it comes from, its stages, their checks and pages. Nothing here imports Dagster."""
