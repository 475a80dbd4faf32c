"""Scores as Markdown, for Dagster's pages: the numbers, the paper's beside them, and where the responses lie."""

from collections.abc import Mapping

from evals.report.leaderboard import describe_protocol
from evals.report.paper import COLUMNS, GYM_COLUMNS, GYM_TABLE, TABLE_1
from evals.statistics.metrics import summarize
from evals.statistics.scores import Scores


def scores_markdown(scores: Mapping[str, Scores], root: str) -> str:
    """A table of one policy's accuracies with 95% intervals; below it the paper's figures of the same benchmarks."""
    lines = [
        "| benchmark | accuracy % | problems | protocol | cut % | without answer % | tokens | responses |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in scores.items():
        found = summarize(one)
        tokens = found.response_tokens
        lines.append(
            f"| {name} | **{found.accuracy.percent()}** | {found.problems} | {describe_protocol(one)} "
            f"| {found.truncated.percent()} | {found.unparsed.percent()} "
            f"| {tokens.value:.0f} [{tokens.low:.0f}, {tokens.high:.0f}] | `{root}/{one.responses}` |"
        )
    return "\n".join(lines) + paper_markdown(list(scores))


def paper_markdown(names: list[str]) -> str:
    """The paper's rows for those of `names` that it measures; empty when it measures none."""
    parts: list[str] = []
    for title, columns, prefix, table in (
        ("Table 1", COLUMNS, "", TABLE_1),
        ("reasoning-gym", GYM_COLUMNS, "gym_", GYM_TABLE),
    ):
        shown = [column for column in columns if f"{prefix}{column}" in names]
        if not shown:
            continue
        parts += ["", f"arXiv 2505.15311, {title}, accuracy in percent (stated without intervals):", ""]
        parts += [f"| | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
        for row, values in table.items():
            cells = dict(zip(columns, values, strict=True))
            parts.append(f"| {row} | {' | '.join(f'{cells[column]:g}' for column in shown)} |")
    return "\n".join(["", *parts]) if parts else ""
