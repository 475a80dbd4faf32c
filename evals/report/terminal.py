"""Results for people: tables on the terminal, never a number without its interval."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from evals.benchmarks.registry import Listed
from evals.patterns.detectors import PATTERNS
from evals.patterns.rates import Group
from evals.report.leaderboard import COLUMNS, TABLE_1, Standing, columns, describe_protocol
from evals.statistics.compare import Comparison
from evals.statistics.metrics import summarize
from evals.statistics.scores import Scores
from pipeline.console import PlainConsole
from pipeline.rewards.golds import counted
from pipeline.terminal import visible


def print_scores(scores: Sequence[Scores]) -> None:
    """One line a benchmark: accuracy and what stands beside it, with 95% intervals."""
    table = Table("benchmark", "protocol", "n", "accuracy %", "pass@k %", "maj@k %", "tokens", "cut %", "unparsed %")
    for one in scores:
        found = summarize(one)
        pass_at = "\n".join(f"{k}: {value.percent()}" for k, value in found.pass_at.items() if k > 1)
        majority = "\n".join(f"{k}: {value.percent()}" for k, value in found.majority_at.items())
        tokens = found.response_tokens
        table.add_row(
            one.benchmark,
            describe_protocol(one),
            str(found.problems),
            found.accuracy.percent(),
            pass_at,
            majority,
            f"{tokens.value:.0f} [{tokens.low:.0f}, {tokens.high:.0f}]",
            found.truncated.percent(),
            found.unparsed.percent(),
        )
    print_table(table)


def print_comparisons(a: str, b: str, found: Sequence[Comparison]) -> None:
    """Accuracies of both policies in percent and B minus A in points."""
    table = Table("benchmark", "problems", f"A = {a}", f"B = {b}", "B - A", "told apart", "remarks")
    for one in found:
        table.add_row(
            one.benchmark,
            str(one.problems),
            one.a.percent(),
            one.b.percent(),
            one.difference.percent(),
            "yes" if one.separated else "no",
            "; ".join(one.remarks),
        )
    print_table(table)


def print_leaderboard(found: Sequence[Standing], paper: bool) -> None:
    """Accuracy in percent by policy and benchmark; the paper's Table 1 below, where asked for."""
    names = columns(found)
    table = Table("policy", *names)
    for standing in found:
        table.add_row(standing.name, *(_cell(standing, name) for name in names))
    if paper:
        table.add_section()
        for name, values in TABLE_1.items():
            by_benchmark = dict(zip(COLUMNS, values, strict=True))
            if any(column in by_benchmark for column in names):
                table.add_row(f"paper: {name}", *(str(by_benchmark.get(column, "")) for column in names))
    print_table(table)
    protocols = {(name, standing.protocol[name]) for standing in found for name in standing.protocol}
    for name, protocol in sorted(protocols):
        PlainConsole(soft_wrap=True, highlight=False).print(f"{name}: {protocol}")


def print_benchmarks(found: Sequence[Listed]) -> None:
    """Every benchmark with its protocol, and how what was found differs from the registry."""
    table = Table("name", "title", "rows", "content hash", "protocol", "from", "remarks")
    for one in found:
        known = one.benchmark
        protocol = known.protocol
        heat = "greedy" if not protocol.temperature else f"T={protocol.temperature:g}"
        rows = " or ".join(map(str, known.rows)) if one.rows is None else str(one.rows)
        flawed = f"{len(one.flawed)} cannot be answered as stated" if one.flawed else ""
        golds = counted(len(one.not_understood)) if one.not_understood else ""
        table.add_row(
            known.name,
            known.title,
            rows,
            one.content_hash or known.content_hash or "",
            f"Avg@{protocol.samples} {heat}",
            known.origin,
            "; ".join(part for part in (one.differs, flawed, golds, *known.remarks) if part),
        )
    print_table(table)


def print_patterns(groups: Sequence[Group], examples: bool) -> None:
    """Share of responses in percent that shows each pattern, by group; below, one example of each where asked for."""
    table = Table("group", "responses", "prompts", *(f"{pattern.name} %" for pattern in PATTERNS))
    for group in groups:
        seen = f"{group.responses:,} of {group.available:,}"
        rates = (group.rates[p.name].percent() if p.name in group.rates else "" for p in PATTERNS)
        table.add_row(group.label, seen, f"{group.prompts:,}", *rates)
    print_table(table)
    if not examples:
        return
    console = PlainConsole(highlight=False, soft_wrap=True)
    for example in (example for group in groups for example in group.examples):
        console.print(
            visible(f"{example.pattern} by {example.rule}, {example.group}, {example.response}"),
            style="bold",
            markup=False,
        )
        text = Text(visible(example.before.replace("\n", " ")))
        text.append(visible(example.match.replace("\n", " ")), style="reverse")
        text.append(visible(example.after.replace("\n", " ")))
        console.print(text)


def _cell(standing: Standing, name: str) -> str:
    return standing.accuracy[name].percent() if name in standing.accuracy else ""


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal, or 200 columns into a file."""
    console = PlainConsole()
    # A pipe has no width of its own, and a table must not be cut to a guessed one.
    PlainConsole(width=None if console.is_terminal else 200, highlight=False).print(table)
