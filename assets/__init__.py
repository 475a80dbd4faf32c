"""Dagster definitions: the only room that imports Dagster."""
