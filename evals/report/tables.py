"""Tables of the report: generations, benchmarks beside the paper's, changes, off-policy diagnostics."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evals.report.chart import short
from evals.report.curves import AllScores, Lengths
from evals.report.history import GenerationRecord
from evals.report.leaderboard import COLUMNS, GYM_COLUMNS, GYM_TABLE, TABLE_1, describe_protocol
from evals.statistics.compare import compare_scores
from evals.statistics.intervals import Interval
from evals.statistics.metrics import summarize
from evals.statistics.scores import Scores
from pipeline.errors import StoreError
from pipeline.store import Store

DIAGNOSTICS_FILE = "diagnostics.json"


@dataclass(frozen=True)
class Table:
    """Cells as text. Rows in `set_apart` are somebody else's numbers."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    set_apart: int = 0
    """How many of the last rows are not ours."""


def generation_table(history: Sequence[GenerationRecord], lengths: Mapping[int, Lengths]) -> Table:
    """One row a generation: what policy[g] sampled, how training on it went, what it cost."""
    rows: list[list[str]] = []
    for record in history:
        training, sampling = record.training, record.sampling
        length = lengths.get(record.generation)
        rows.append(
            [
                str(record.generation),
                with_interval(record.reward, "{:.3f}"),
                _number(training, "residual_abs"),
                _number(training, "value_first"),
                "" if record.kl is None else f"{record.kl:.3g}",
                _number(training, "loss_first"),
                _number(training, "loss_last"),
                with_interval(length.untruncated, "{:.4g}") if length else "",
                length.cut.percent() if length else "",
                f"{sampling['response_tokens']:,}" if "response_tokens" in sampling else "",
                f"{training['trajectories']:,}" if "trajectories" in training else "",
                f"{training['tokens']:,}" if "tokens" in training else "",
                f"{sum(record.seconds.values()):,.0f}" if record.seconds else "",
            ]
        )
    header = ["g", "sampled reward", "|residual|", "V(s₁)", "KL", "loss, first", "loss, last", "tokens, untruncated"]
    header += ["cut %", "tokens sampled", "trajectories trained", "tokens trained", "seconds"]
    caption = "Row g: trajectories sampled from policy[g], and the training on its replay mix that made policy[g+1]."
    return compact(Table(caption, header, rows))


def accuracy_tables(history: Sequence[GenerationRecord]) -> list[Table]:
    """Accuracy of every policy; the paper's rows of the same benchmarks below. One table a family of benchmarks."""
    names = list(dict.fromkeys(name for record in history for name in record.accuracy))
    gym = {f"gym_{column}": column for column in GYM_COLUMNS}
    families = [
        ("the paper's Table 1", [n for n in COLUMNS if n in names], COLUMNS, TABLE_1),
        ("the paper's reasoning-gym tasks", [n for n in gym if n in names], tuple(gym), GYM_TABLE),
    ]
    found: list[Table] = []
    for title, columns, all_columns, paper in families:
        if columns:
            theirs = [_paper_row(row, values, all_columns, columns) for row, values in paper.items()]
            caption = f"Accuracy in % with 95% intervals; below, {title} (arXiv 2505.15311, stated without intervals)."
            found.append(
                Table(caption, ["policy", *columns], [*_accuracy_rows(history, columns), *theirs], len(theirs))
            )
    others = [name for name in names if not any(name in columns for _, columns, _, _ in families)]
    if others:
        caption = "Accuracy in % with 95% intervals."
        found.append(Table(caption, ["policy", *others], _accuracy_rows(history, others)))
    return found


def benchmark_table(scores: Mapping[str, Scores], generation: int) -> Table:
    """Everything that is measured of one policy."""
    rows: list[list[str]] = []
    for name, one in scores.items():
        found = summarize(one)
        rows.append(
            [
                name,
                describe_protocol(one),
                str(found.problems),
                found.accuracy.percent(),
                "\n".join(f"{k}: {v.percent()}" for k, v in found.pass_at.items() if k > 1),
                "\n".join(f"{k}: {v.percent()}" for k, v in found.majority_at.items()),
                with_interval(found.response_tokens, "{:.4g}"),
                found.truncated.percent(),
                found.unparsed.percent(),
                one.verifier,
                one.remark,
            ]
        )
    header = ["benchmark", "protocol", "problems", "accuracy %", "pass@k %", "maj@k %", "tokens", "cut %"]
    header += ["unparsed %", "verifier", "remark"]
    return compact(Table(f"policy[{generation}], all with 95% intervals.", header, rows))


def change_table(all_scores: AllScores) -> Table | None:
    """The last scored policy minus the first, paired by problem; None with fewer than two."""
    if len(all_scores) < 2:
        return None
    first, last = min(all_scores), max(all_scores)
    rows: list[list[str]] = []
    for name, before in all_scores[first].items():
        if name in all_scores[last]:
            found = compare_scores(before, all_scores[last][name])
            apart = "yes" if found.separated else "no"
            cells = [name, str(found.problems), found.a.percent(), found.b.percent(), found.difference.percent(), apart]
            rows.append([*cells, "; ".join(found.remarks)])
    header = ["benchmark", "problems", f"policy[{first}] %", f"policy[{last}] %", "difference, points", "told apart"]
    caption = f"policy[{last}] minus policy[{first}], paired by problem, with 95% intervals."
    return compact(Table(caption, [*header, "remarks"], rows)) if rows else None


def diagnostics_table(store: Store, name: str, generations: Sequence[int]) -> Table | None:
    """How far the training data were from the policy they trained, by source and lag; None where none are stored.

    Raises StoreError for a damaged file.
    """
    rows: list[list[str]] = []
    for generation in generations:
        path = store.join(name, "trained_policy", f"generation={generation:04d}", DIAGNOSTICS_FILE)
        if not store.fs.exists(path):
            continue
        try:
            rows += [_diagnostics_row(generation, one) for one in json.loads(store.read_bytes(path))["sources"]]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise StoreError(f"{path} is damaged ({error!r}): train the generation again with --replace") from error
    header = ["g", "source", "lag", "in the mix", "sampled", "reward", "residual ± std", "Σ log πθ/π_ref ± std"]
    header += ["log w 5%", "50%", "95%", "effective", "of n %", "χ²", "mean w"]
    caption = (
        "At the policy before its first update, from a sample of each source. w = πθ(τ)/μ(τ) of whole responses, where "
        "the behaviour policy μ left its log-probs; TBRM itself needs no w. Effective: (Σw)²/Σw²."
    )
    return Table(caption, header, rows) if rows else None


def compact(table: Table) -> Table:
    """The table without columns that are empty in every row."""
    kept = [i for i in range(len(table.header)) if any(row[i] for row in table.rows)]
    rows = [[row[i] for i in kept] for row in table.rows]
    return Table(table.caption, [table.header[i] for i in kept], rows, table.set_apart)


def with_interval(interval: Interval | None, number: str) -> str:
    """`0.482 [0.467, 0.498]`; the value alone where there is too little for an interval."""
    if interval is None:
        return ""
    if not math.isfinite(interval.low + interval.high):
        return f"{number.format(interval.value)} (no interval: too few)"
    return f"{number.format(interval.value)} [{number.format(interval.low)}, {number.format(interval.high)}]"


def _accuracy_rows(history: Sequence[GenerationRecord], columns: Sequence[str]) -> list[list[str]]:
    return [
        [f"policy[{r.generation}]", *(r.accuracy[c].percent() if c in r.accuracy else "" for c in columns)]
        for r in history
        if any(c in r.accuracy for c in columns)
    ]


def _paper_row(row: str, values: Sequence[float], columns: Sequence[str], shown: Sequence[str]) -> list[str]:
    by_name = dict(zip(columns, values, strict=True))
    return [f"paper: {row}", *(f"{by_name[name]:.1f}" for name in shown)]


def _diagnostics_row(generation: int, tree: Mapping[str, Any]) -> list[str]:
    cells = [str(generation), str(tree["source"]), str(tree["lag"]), f"{tree['rows']:,}", str(tree["sampled"])]
    cells.append(f"{tree['reward']:.3f}")
    cells += [f"{short(s['mean'])} ± {short(s['std'])}" for s in (tree["residual"], tree["log_ratio_reference"])]
    coverage = tree["coverage"]
    if coverage is None:
        return [*cells, *["-"] * 7]
    p5, _, p50, _, p95 = coverage["log_ratio"]["percentiles"]
    cells += [f"{round(value, 2) + 0.0:.2f}" for value in (p5, p50, p95)]
    share = f"{100 * coverage['effective_share']:.1f}"
    return [*cells, f"{coverage['effective']:.1f}", share, short(coverage["chi2"]), short(coverage["mean_weight"])]


def _number(values: Mapping[str, Any], name: str) -> str:
    return short(float(values[name])) if name in values else ""
