"""Experiments as Dagster sees them: assets, jobs, schedules and sensors, and the history of their runs."""
