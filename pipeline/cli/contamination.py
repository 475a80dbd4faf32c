"""`tbrm contamination`: which training prompts are benchmark problems."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import json_option, print_json, set_option, store_options
from pipeline.errors import ConfigError
from pipeline.terminal import visible

if TYPE_CHECKING:
    from pipeline.prompts.problems import Problem
    from pipeline.store import Store


@click.command()
@click.option("--experiment", "-e", "name", help="Look at the prompt set of this experiment, as it is configured.")
@click.option("--prompts", "file", metavar="FILE", help="Look at a JSONL or Parquet file (id, problem, answer).")
@click.option("--logged", metavar="NAME", help="Look at the prompts of a logged data set.")
@click.option("--benchmarks", metavar="FOLDER", help="One JSONL file a benchmark. Default: the experiment's.")
@click.option("--benchmark", "names", multiple=True, metavar="NAME", help="Only this one. Repeatable.")
@click.option("--show", type=click.IntRange(min=0), default=20, show_default=True, help="Pairs to list.")
@set_option
@store_options
@json_option
def contamination(
    name: str | None,
    file: str | None,
    logged: str | None,
    benchmarks: str | None,
    names: Sequence[str],
    show: int,
    overrides: Sequence[str],
    store: "Store",
    as_json: bool,
) -> None:
    """Find training prompts that are benchmark problems: equal texts, and at least half of the 13-grams shared.

    One of --experiment, --prompts and --logged says which prompts. `prompts.exclude_overlap` of an experiment leaves
    such prompts out.
    """
    from pipeline.config import load_experiment
    from pipeline.prompts.contamination import benchmark_folder, find_pairs, load_benchmarks

    if sum(choice is not None for choice in (name, file, logged)) != 1:
        raise click.UsageError("name one of --experiment, --prompts and --logged")
    if benchmarks is None and name is not None:
        experiment = load_experiment(name, overrides)
        benchmarks = benchmark_folder(experiment.prompts, experiment.evaluation and experiment.evaluation.source)
    if benchmarks is None:
        raise ConfigError(
            "no benchmarks to compare with: give --benchmarks FOLDER, or set `prompts.exclude_overlap` or "
            "`evaluation.source`"
        )
    known = load_benchmarks(benchmarks, names)
    pairs = list(find_pairs(_problems(name, file, logged, overrides, store), known))
    summary = known.summary(pairs)
    if as_json:
        print_json({"benchmarks": [asdict(s) for s in summary], "pairs": [asdict(p) for p in pairs]})
        return
    for found in summary:
        share = (found.exact + found.near) / max(1, found.problems)
        click.echo(
            f"{found.benchmark:20} {found.exact + found.near:4} of {found.problems} problems ({share:.1%}): "
            f"{found.exact} exact, {found.near} near; {found.same_answer} with the same answer"
        )
    for pair in pairs[:show]:
        answer = "same answer" if pair.same_answer else "another answer"
        click.echo(
            f"  {visible(pair.prompt_id)} is {visible(pair.problem_id)} ({pair.benchmark}): {pair.kind} "
            f"{pair.overlap:.2f}, {answer}"
        )
    if len(pairs) > show:
        click.echo(f"  … and {len(pairs) - show} more: --show {len(pairs)}")


def _problems(
    name: str | None, file: str | None, logged: str | None, overrides: Sequence[str], store: "Store"
) -> "Iterator[Problem]":
    from pipeline.config import load_experiment
    from pipeline.config.prompts import Columns
    from pipeline.prompts.generation import load_problems, table_problems
    from pipeline.prompts.problems import file_problems

    if file is not None:
        yield from file_problems(Path(file), Columns())
    elif name is not None:
        experiment = load_experiment(name, overrides)
        yield from load_problems(experiment.prompts, experiment.seed)
    else:
        dataset = f"logged/{logged}"
        for generation in store.generations(dataset, "prompts") or [0]:
            yield from table_problems(store.partition(dataset, "prompts", generation))
