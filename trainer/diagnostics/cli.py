"""`tbrm diagnostics`: how far a generation's training data were from the policy that they trained."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import (
    experiment_argument,
    generation_option,
    json_option,
    print_json,
    set_option,
    store_options,
)
from pipeline.errors import StoreError

if TYPE_CHECKING:
    from pipeline.store import Store


@click.command()
@experiment_argument()
@generation_option
@set_option
@store_options
@json_option
def diagnostics(experiment: str, generation: int, overrides: Sequence[str], store: "Store", as_json: bool) -> None:
    """Off-policy diagnostics of EXPERIMENT's training mix, by source and generation lag.

    Taken at the policy before the first update, from a sample of `training.diagnostics_sample` trajectories of each
    source: the residual of Eq. 4, the distance from the reference, and, where the behaviour policy left its log-probs,
    importance weights w = π_θ/μ of whole responses: percentiles of log w, effective sample size and χ²(π_θ ‖ μ).
    """
    from pipeline.config import load_experiment
    from pipeline.config.experiment import check_generation
    from trainer.diagnostics.numbers import COLUMNS, PERCENTILES, cells, read_diagnostics

    loaded = load_experiment(experiment, overrides)
    check_generation(loaded, generation)
    name = loaded.name
    found = read_diagnostics(store, name, generation)
    if found is None:
        raise StoreError(
            f"{name} generation {generation} has no diagnostics: run `tbrm train --experiment {experiment} "
            f"--generation {generation}` first (none are made with `training.diagnostics_sample: 0`)"
        )
    if as_json:
        print_json({"percentiles": PERCENTILES, "sources": [asdict(source) for source in found]})
        return
    from rich.table import Table

    from pipeline.console import PlainConsole

    table = Table(title=f"{name} generation {generation}: training data against policy[{generation}]")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "source" else "right", no_wrap=column == "source")
    for source in found:
        table.add_row(*cells(source))
    PlainConsole(width=None if sys.stdout.isatty() else 160).print(table)
