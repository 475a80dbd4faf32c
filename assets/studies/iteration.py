"""The page of the study `iteration`, exact half."""

from typing import Any

from matplotlib.figure import Figure

from assets.studies.coverage import BETA
from assets.studies.exact import ExactStudy, markdown_table
from assets.studies.iteration_exact import run_iteration


def exact_tables(results: dict[str, Any]) -> str:
    """The bandit and the layered MDPs."""
    steps = [f"step {s:,}" for s in results["steps"][1:]]
    two = [
        [o, *(c.replace("worse", "Q†").replace("better", "Q*") for c in chosen[:3]), f"{_name(chosen[-1])} at 10"]
        for o, chosen in results["choices_of_two"].items()
    ]
    arms = [
        [
            r["class"],
            r["objective"],
            _refresh(r),
            *(f"{g:.1e}" for g in r["exact"][1:]),
            f"{r['sampled'][-1]['mean']:.1e}",
        ]
        for r in results["bandit"]
    ]
    layered = [
        [r["objective"], _refresh(r), "drawn" if r["sampled"] else "exact", *(_left(x) for x in r["left"][1:])]
        for r in results["layered"]
    ]
    return f"""## The two-armed bandit

Q† = (0, 0), Q* = (10, 0), β = 0.1, both arms equally often. Where Q must be one of the two, the least loss from Q† is:

{markdown_table(["objective", "iteration 1", "iteration 2", "iteration 3", "last"], two)}

The same bandit by gradient descent from Q† (step 0.01), where Q = (x, 0) is a line or any two logits are a table; the
gap J_β(π*) - J_β(π) starts at {results["bandit"][0]["exact"][0]:.2f}. The last column draws one arm a step (mean over
the seeds).

{markdown_table(["class", "objective", "steps an iteration", *steps, "drawn arms, last"], arms)}

## Layered MDPs

Random MDPs (4 layers, 4 states, 3 tokens, β = {BETA:g}) with data of the reference policy, from its logits. Shown is
the part of the gap that is left, for the best of five step sizes of each row; `drawn` gradients come from 32
trajectories a step.

{markdown_table(["objective", "steps an iteration", "gradients", *steps], layered)}

Direct optimization beats iteration, as the paper says, and by more than its bandit shows. In the class of two, every
iterated objective stays at Q† for ever. On the line it moves, but ever more slowly, because the slope of log π vanishes
as the policy becomes sure, while TBRM's slope is that of Q itself. In the table, with exact gradients and however long
an iteration is, the iterated objectives settle at a policy that is not π*: log π does not change when a constant is
added to all logits of a state, so a loss that sees θ only through log π never moves that constant, which is what V
needs, and the frozen V stays wrong. TBRM's own V_θ(s_1) carries that slope. The same holds for a language model's
logits as far as its layers do not shift them together by other means. `sql_single` needs a correct V at every state
and is the furthest off; a shorter iteration does not help it. The variants are our reading of Eq. 14 and of the SQL
family: a fit of Q itself to the iterated target, instead of log π, is not among them.
"""


def _name(choice: str) -> str:
    return {"worse": "Q†", "better": "Q*"}[choice]


def _refresh(row: dict[str, Any]) -> str:
    return "-" if row["objective"] == "tbrm" else str(row["refresh"])


def _left(stats: dict[str, float]) -> str:
    if stats["mean"] < 0.005:
        return f"{stats['mean']:.0e}"
    return f"{stats['mean']:.2f} [{stats['low']:.2f}, {stats['high']:.2f}]"


def _figure(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 3.9), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    # TBRM goes the same way on the line and in the table.
    shown = (r for r in results["bandit"] if r["refresh"] != 10 and (r["class"] == "table" or r["objective"] != "tbrm"))
    for color, row in enumerate(shown):
        name = "tbrm, line and table" if row["objective"] == "tbrm" else f"{row['objective']}, {row['class']}"
        left.plot(results["steps"], row["exact"], "o-", ms=3, color=f"C{color}", label=name)
        left.plot(results["steps"], [x["mean"] for x in row["sampled"]], ":", color=f"C{color}")
    for color, row in enumerate(r for r in results["layered"] if r["refresh"] != 10 and not r["sampled"]):
        means = [x["mean"] for x in row["left"]]
        right.plot(results["steps"], means, "o-", ms=3, color=f"C{color}", label=row["objective"])
        right.fill_between(
            results["steps"],
            [max(x["low"], 1e-7) for x in row["left"]],
            [x["high"] for x in row["left"]],
            color=f"C{color}",
            alpha=0.15,
            lw=0,
        )
    left.set(title="bandit (dotted: drawn arms)", ylabel="J(π*) - J(π)", ylim=(1e-8, 1))
    right.set(title="layered MDPs, exact gradients", ylabel="part of the gap left", ylim=(1e-6, 2))
    for axis in (left, right):
        axis.set(yscale="log", xlabel="gradient steps")
        axis.set_xscale("symlog", linthresh=10)
        axis.set_xlim(0, results["steps"][-1])
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    return figure


ITERATION = ExactStudy(
    name="iteration",
    title="iteration: minimizing the residual directly against regressing to a frozen value",
    claim="Optimizing the trajectory Bellman residual directly beats iterating towards targets of the last policy "
    "(appendices D and F): on a two-armed bandit the iteration stays at the worse Q for ever.",
    seeds=8,
    run=run_iteration,
    tables=exact_tables,
    figure=_figure,
)
