"""What `tbrm run` ends with: one row a generation, and the report's curves as a picture."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from evals.report.chart import panels, png
from evals.report.curves import curves, read_updates, sampled_lengths
from evals.report.history import STAGES, GenerationRecord, read_history
from pipeline.config import Experiment
from pipeline.console import PlainConsole
from pipeline.store import Store

PICTURE = "curves.png"


def summarize(experiment: Experiment, store: Store) -> None:
    """Print one row a generation, and write `<root>/<experiment>/curves.png`."""
    history = read_history(experiment, store)
    if not history:
        return
    # Wide enough for the numbers where the output is a file or a log.
    console = PlainConsole(width=None if PlainConsole().is_terminal else 160, soft_wrap=False)
    console.print(_generations(experiment, history))
    console.print(
        "accuracy in % with 95% interval; row g: scores of policy[g], its trajectories, and the training on them",
        style="dim",
        highlight=False,
    )
    path = store.join(experiment.name, PICTURE)
    updates = read_updates(store, experiment.name, [record.generation for record in history])
    charts = curves(history, updates, {}, sampled_lengths(store, experiment.name, history))
    store.write_atomic(path, png(panels(charts, 3, (4, 3.2), _title(experiment))))
    console.print(f"curves: {path}", soft_wrap=True)


def _generations(experiment: Experiment, history: Sequence[GenerationRecord]) -> Table:
    benchmarks = list(dict.fromkeys(name for record in history for name in record.accuracy))
    stages = [name for name in STAGES.values() if any(name in record.seconds for record in history)]
    table = Table(title=_title(experiment))
    for title in ("policy", "sampled reward %", *(f"{b} %" for b in benchmarks)):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("|res.|", "V(s_1)", "KL", "tokens", *(f"{s.removesuffix('_logprobs')} s" for s in stages)):
        table.add_column(title, justify="right")
    for record in history:
        training = record.training
        table.add_row(
            str(record.generation),
            record.reward.percent() if record.reward else "",
            *(record.accuracy[b].percent() if b in record.accuracy else "" for b in benchmarks),
            _number(training.get("residual_abs"), ".1f"),
            _number(training.get("value_first"), ".2f"),
            _number(record.kl, ".3f"),
            _number(record.sampling.get("response_tokens"), ",d"),
            *(_number(record.seconds.get(s), ".1f") for s in stages),
        )
    return table


def _title(experiment: Experiment) -> str:
    return f"{experiment.name}: {experiment.training.objective}, β = {experiment.training.beta:g}"


def _number(value: Any, how: str) -> str:
    return "" if value is None else format(value, how)
