"""Orchestration: experiments by Dagster, which no other room imports, and studies in one process.

A click on Materialize goes through the rooms once, in this order. `graph` is asked for the asset (stage_asset) and
resolves the experiment (experiment/source). `processes` runs the stage's command: a launcher starts a supervisor, and
that the child. The stage commits its result in the store. `experiment` checks it and writes its page (checks, pages).
`graph` tells Dagster's history of the published policy (history).
"""
