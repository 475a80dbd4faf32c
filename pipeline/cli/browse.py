"""The commands that look into the store, and let others look: `tbrm inspect`, `show`, `sql`, `lineage`, `delta`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import json_option, print_json, store_options
from pipeline.errors import StoreError, TbrmError
from pipeline.terminal import visible

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from pipeline.browse.lineage import Node
    from pipeline.store import Store


@click.command()
@click.argument("dataset", required=False)
@store_options
@json_option
def inspect(dataset: str | None, store: "Store", as_json: bool) -> None:
    """What the store holds of DATASET (an experiment, or logged/NAME): tables, rows, tokens, rewards, lengths.

    Without DATASET: one line for each. Where several versions of a label exist, it says how often they agree.
    """
    from pipeline.browse.inspection import inspect_dataset, overview, print_inspection, print_overview

    if dataset is None:
        found = overview(store)
        print_json(found) if as_json else print_overview(found)
        return
    one = inspect_dataset(store, dataset)
    print_json(one) if as_json else print_inspection(one)


@click.command()
@click.argument("trajectory_id")
@store_options
@json_option
def show(trajectory_id: str, store: "Store", as_json: bool) -> None:
    """Print one trajectory: prompt, response, rewards, reference log-prob, and where it came from.

    The response's words are coloured by log π_ref of their tokens (green: expected, red: surprising) as far as
    log-probs are stored; words of the environment are dimmed.
    """
    from pipeline.browse.trajectory import find_trajectory

    found = find_trajectory(store, trajectory_id)
    if found is None:
        raise TbrmError(f"there is no trajectory {trajectory_id!r} in {store.root}; `tbrm sql` lists trajectory_ids")
    if as_json:
        print_json(found)
        return
    _print_trajectory(found)


def _print_trajectory(found: dict[str, Any]) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from pipeline.console import PlainConsole

    console = PlainConsole()
    console.print(Panel(str(found["prompt_text"]), title="prompt", title_align="left"))
    colour = "green" if found["reward"] is not None and found["reward"] > 0.5 else "red"
    text = Text(visible(str(found["response_text"])), style=colour if found["reward"] is not None else "")
    console.print(Panel(text, title=f"response, {found['response_tokens']} tokens", title_align="left"))
    table = Table(show_header=False)
    hidden = {"prompt_text", "response_text", "labels"}
    for key, value in found.items():
        if key not in hidden and value is not None:
            table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
    console.print(table)
    labels = Table(
        "label table", "value", "status", "extracted answer", "made by", title="all labels", title_justify="left"
    )
    for label in found["labels"]:
        cells = (
            str(label[name] if label[name] is not None else "") for name in ("table", "value", "status", "answer", "by")
        )
        labels.add_row(*cells)
    console.print(labels)


@click.command()
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, 2**31 - 1), default=1_000, show_default=True, help="Rows to print.")
@store_options
@json_option
def sql(query: str, limit: int, store: "Store", as_json: bool) -> None:
    """Run a DuckDB QUERY over the store's tables.

    Views: prompts, rollouts, rewards, ref_logprobs, responses, scores, quarantine, each with the columns dataset,
    generation and label; and trajectories, which joins rollouts with prompt, reward and reference log-probs.
    Example: tbrm sql "select generation, avg(reward) from trajectories group by 1 order by 1"
    """
    from pipeline.browse.sql import run_sql

    names, rows = run_sql(store, query, limit)
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    from rich.table import Table

    from pipeline.console import PlainConsole

    table = Table(*names)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    PlainConsole().print(table)


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else text[:199] + "…"


@click.command()
@click.argument("policy_or_score")
@store_options
@json_option
def lineage(policy_or_score: str, store: "Store", as_json: bool) -> None:
    """Walk from a score or policy back to its training data, shards and behaviour policies.

    POLICY_OR_SCORE is EXPERIMENT:GENERATION (its scores where there are any, else the policy), a policy_id, a policy
    folder, or a partition such as arith_tiny/rollouts/generation=0001.
    """
    from rich.tree import Tree

    from pipeline.browse.lineage import trace
    from pipeline.console import PlainConsole

    found = trace(store, policy_or_score)
    if as_json:
        print_json(found.to_json())
        return
    tree = Tree(_label(found))
    _grow(tree, found)
    PlainConsole().print(tree)


def _grow(tree: "Tree", node: "Node") -> None:
    for parent in node.parents:
        _grow(tree.add(_label(parent)), parent)


def _label(node: "Node") -> "Text":
    from rich.text import Text

    label = Text(visible(node.name), style="bold")
    if node.repeated:
        return label.append(" (as above)", style="not bold")
    for key, value in node.facts.items():
        label.append(f"\n  {visible(key)}", style="not bold dim").append(f" {visible(value)}", style="not bold")
    return label


@click.command()
@click.argument("dataset")
@click.argument("tables", nargs=-1)
@store_options
@json_option
def delta(dataset: str, tables: tuple[str, ...], store: "Store", as_json: bool) -> None:
    """Let readers of Delta tables read TABLES of DATASET (all without TABLES) where they lie: no file is copied.

    Each call adds a version to a log in the table's folder, with what was written or replaced since the last call.
    """
    from pipeline.browse.delta import export_delta

    committed = [table for table in store.tables(dataset) if store.generations(dataset, table)]
    done = [export_delta(store, dataset, table) for table in tables or committed]
    if not done:
        raise StoreError(f"{dataset} has no committed table in {store.root}: `tbrm inspect` lists what there is")
    if as_json:
        print_json([asdict(one) for one in done])
        return
    for one in done:
        changed = f"{one.added:,} files added, {one.removed:,} removed"
        click.echo(f"{one.table}: version {one.version}, {one.rows:,} rows; {changed}: {one.path}")
