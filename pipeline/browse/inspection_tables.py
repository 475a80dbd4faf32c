"""An inspection printed for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from pipeline.terminal.console import PlainConsole

_WIDTH = 30


def print_overview(found: Sequence[Mapping[str, Any]]) -> None:
    """One line for each data set of the store."""
    table = Table("data set", "rows by table")
    for one in found:
        table.add_row(one["dataset"], ", ".join(f"{name} {rows:,}" for name, rows in one["rows"].items()))
    PlainConsole().print(table)


def print_inspection(found: Mapping[str, Any]) -> None:
    """Tables, generations, rewards as a histogram, agreement of label versions, quarantine."""
    console = PlainConsole()
    tables = Table("table", "generations", "rows", "shards", "MB", title=str(found["dataset"]), title_justify="left")
    for one in found["tables"]:
        size = f"{one['bytes'] / 1e6:.2f}"
        tables.add_row(one["table"], str(one["generations"]), f"{one['rows']:,}", str(one["shards"]), size)
    console.print(tables)
    _print_generations(console, found["generations"])
    for version, rewards in found["rewards"].items():
        _print_rewards(console, version, rewards)
    for one in found["agreement"]:
        first, second = one["versions"]
        table = Table(f"{first} \\ {second}", "success", "no success")
        table.add_row("success", f"{one['both']:,}", f"{one[f'only {first}']:,}")
        table.add_row("no success", f"{one[f'only {second}']:,}", f"{one['neither']:,}")
        console.print(table)
        if one["examples"]:
            console.print(f"where they differ: tbrm show {one['examples'][0]} (and {len(one['examples']) - 1} more)")
    if found["quarantine"]:
        table = Table("quarantined because", "rows")
        for reason, rows in found["quarantine"].items():
            table.add_row(reason, f"{rows:,}")
        console.print(table)


def _print_generations(console: PlainConsole, generations: Sequence[Mapping[str, Any]]) -> None:
    newest = max((one["generation"] for one in generations), default=0)
    table = Table(
        "generation", "age", "trajectories", "tokens", "median", "p95", "longest", "finish", "behaviour policy"
    )
    for one in generations:
        finish = ", ".join(f"{name} {count:,}" for name, count in one["finish_reasons"].items())
        table.add_row(
            str(one["generation"]),
            str(newest - one["generation"]),
            f"{one['trajectories']:,}",
            f"{one['response_tokens']:,}",
            f"{one['median_length']:.0f}",
            f"{one['p95_length']:.0f}",
            str(one["longest"]),
            finish,
            ", ".join(one["behaviour_policies"]),
        )
    console.print(table)


def _print_rewards(console: PlainConsole, version: str, rewards: Mapping[str, Any]) -> None:
    statuses = ", ".join(f"{name} {count:,}" for name, count in rewards["statuses"].items())
    console.print(f"{version}: mean {rewards['mean']:.4f}, standard deviation {rewards['std']:.4f}; {statuses}")
    most = max(one["count"] for one in rewards["histogram"])
    for one in rewards["histogram"]:
        if one["count"]:
            bar = "█" * max(1, round(_WIDTH * one["count"] / most))
            console.print(f"  {one['from']:6.2f} to {one['to']:5.2f} {bar} {one['count']:,}", highlight=False)
