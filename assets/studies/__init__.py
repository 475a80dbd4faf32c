"""The paper's claims as runnable studies, on tables and on trained policies. Nothing here imports Dagster."""
