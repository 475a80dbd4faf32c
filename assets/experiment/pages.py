"""What the page of an asset shows besides its metrics, as Markdown: sample rows, benchmark scores, curves, diagnostics.

The curves are drawn from the statistics of manifests alone, so that they cost the same however large the tables are.
Nothing here imports Dagster, and matplotlib is imported only to draw.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from assets.experiment.headlines import ACCURACY
from evals.report.chart import Chart, Point, Series, panels, png
from evals.report.leaderboard import scores_markdown
from evals.statistics.scores import read_scores
from pipeline.markdown import markdown_table
from pipeline.store import Store
from trainer.diagnostics.numbers import PLOT_FILE, markdown, read_diagnostics

Page = Mapping[str, str]
"""Markdown by the name under which the page shows it."""
Stats = Mapping[str, Any]
_SAMPLE_ROWS = 8
_SAMPLE_CHARS = 160
_SHOWN = 30
"""Generations in a picture: the newest ones."""
_Z95 = 1.96
_INK = "#7a8190"
"""Seen on a white page and on Dagster's dark one."""
_STYLE: Any = {
    **{f"{part}.facecolor": "none" for part in ("figure", "axes")},
    **{f"{part}color": _INK for part in ("text.", "axes.label", "axes.edge", "xtick.", "ytick.")},
}


def empty_page(_store: Store, _name: str, _generation: int) -> Page:
    """An asset whose metrics say everything."""
    return {}


def rollouts_page(store: Store, name: str, generation: int) -> Page:
    """The first responses of a generation."""
    return {"sample_responses": sample_responses(store, name, generation)}


def rewards_page(store: Store, name: str, generation: int) -> Page:
    """The first trajectories of a generation with their rewards."""
    return {"sample_trajectories": sample_trajectories(store, name, generation)}


def scores_page(store: Store, name: str, generation: int) -> Page:
    """The benchmark scores of policy[`generation`], and accuracy up to it."""
    scores = read_scores(store, name, generation)
    return {
        "accuracy": accuracy_plot(store, name, generation),
        "benchmarks": scores_markdown(scores, store.root),
    }


def training_page(store: Store, name: str, generation: int) -> Page:
    """The course of the experiment up to this training, and its training mix against the policy that it trained."""
    curves = {"curves": training_plot(store, name, generation)}
    found = read_diagnostics(store, name, generation)
    if not found:
        return curves
    folder = store.join(name, "trained_policy", f"generation={generation:04d}")
    plot = store.read_bytes(f"{folder}/{PLOT_FILE}")
    shows = "residuals, distance from the reference, effective samples"
    return {**curves, "off_policy_diagnostics": markdown(found), "off_policy_plot": _image(plot, shows)}


def sample_responses(store: Store, dataset: str, generation: int) -> str:
    """Markdown table of the first responses of a generation, before anything labelled them."""
    columns = ["prompt_id", "response_text", "response_token_ids", "finish_reason"]
    rollouts = store.partition(dataset, "rollouts", generation).read_shard(0, columns).slice(0, _SAMPLE_ROWS)
    text_of = _prompt_texts(store, dataset, generation)
    rows = (
        [
            _cell(text_of.get(row["prompt_id"], "")),
            _cell(row["response_text"]),
            str(len(row["response_token_ids"])),
            _cell(row["finish_reason"]),
        ]
        for row in rollouts.to_pylist()
    )
    return markdown_table(["prompt", "response", "tokens", "ended by"], rows)


def _prompt_texts(store: Store, dataset: str, generation: int) -> dict[str, str]:
    """Texts of the first shard's prompts by prompt_id."""
    prompts = store.partition(dataset, "prompts", generation).read_shard(0, ["prompt_id", "prompt_text"]).to_pylist()
    return {row["prompt_id"]: row["prompt_text"] for row in prompts}


def sample_trajectories(store: Store, dataset: str, generation: int) -> str:
    """Markdown table of the first trajectories of a generation with their rewards."""
    text_of = _prompt_texts(store, dataset, generation)
    rollouts = store.partition(dataset, "rollouts", generation).read_shard(0, ["prompt_id", "response_text"])
    rewards = store.partition(dataset, "rewards", generation).read_shard(0, ["reward", "status", "extracted_answer"])
    pairs = zip(rollouts.slice(0, _SAMPLE_ROWS).to_pylist(), rewards.slice(0, _SAMPLE_ROWS).to_pylist(), strict=True)
    rows = (
        [
            _cell(text_of.get(rollout["prompt_id"], "")),
            _cell(rollout["response_text"]),
            _cell(label["extracted_answer"] or ""),
            f"{label['reward']:g}",
            label["status"],
        ]
        for rollout, label in pairs
    )
    return markdown_table(["prompt", "response", "answer found", "reward", "status"], rows)


def fenced(text: str) -> str:
    """Text as a Markdown code block that it cannot close."""
    return "```\n" + text.replace("```", "'''") + "\n```"


def _cell(text: str) -> str:
    """Text as an inert code span of a Markdown table: no markup, link, image or HTML in it comes to life.

    The end of a long response is its interesting part.
    """
    short = text if len(text) <= _SAMPLE_CHARS else "…" + text[-_SAMPLE_CHARS:]
    inert = short.replace("`", "'").replace("|", "¦").replace("\n", "⏎").replace("\r", "")
    return f"`{inert}`" if inert else ""


def training_plot(store: Store, name: str, generation: int) -> str:
    """Markdown image of sampled reward, |residual|, V(s_1), KL and the cosine up to trained_policy[`generation`]."""
    training = _stats(store, name, "trained_policy", generation)
    references = _stats(store, name, "ref_logprobs", generation)
    charts = [
        _chart("sampled reward", "mean r(τ)", _rewards(store, name, generation)),
        _chart("|Bellman residual|", "nats", _plain(training, "residual_abs")),
        _chart("soft value V(s₁)", "nats", _plain(training, "value_first")),
        _chart("KL to the reference", "nats a response", _plain(references, "behaviour_kl")),
        _chart("gradient against imitation's", "cosine", _plain(training, "control_cosine")),
    ]
    return _drawn([chart for chart in charts if not chart.is_empty], "reward, residual, V and KL over generations")


def accuracy_plot(store: Store, name: str, generation: int) -> str:
    """Markdown image of each benchmark's accuracy with its 95% interval, up to policy[`generation`]."""
    points: dict[str, list[Point]] = {}
    for number, stats in _stats(store, name, "scores", generation).items():
        for key in stats:
            if key.endswith(ACCURACY):
                ends = (100.0 * float(stats[part]) for part in (key, f"{key}_low", f"{key}_high"))
                points.setdefault(key.removesuffix(ACCURACY), []).append(Point(number, *ends))
    charts = [_chart(benchmark, "accuracy, %", values) for benchmark, values in points.items()]
    return _drawn(charts, "accuracy over generations")


def _stats(store: Store, name: str, table: str, last: int) -> dict[int, Stats]:
    """Statistics of the committed partitions of a table (or of trained policies) up to generation `last`."""
    found: dict[int, Stats] = {}
    for generation in range(max(0, last - _SHOWN + 1), last + 1):
        manifest = store.committed(name, table, generation)
        if manifest is not None:
            found[generation] = manifest.stats
    return found


def _rewards(store: Store, name: str, last: int) -> list[Point]:
    """Mean reward; the interval counts prompts, as if all responses to one prompt were the same: rather too wide."""
    found: list[Point] = []
    for generation, stats in _stats(store, name, "rewards", last).items():
        mean, spread = float(stats["reward_mean"]), float(stats["reward_std"])
        prompts = store.partition(name, "prompts", generation)
        half = _Z95 * spread / math.sqrt(max(prompts.manifest().rows, 1)) if prompts.is_committed() else 0.0
        found.append(Point(generation, mean, mean - half, mean + half))
    return found


def _plain(by_generation: Mapping[int, Stats], name: str) -> list[Point]:
    return [Point(generation, float(stats[name])) for generation, stats in by_generation.items() if name in stats]


def _chart(title: str, unit: str, points: Sequence[Point]) -> Chart:
    return Chart(title, unit, [Series(title, points)])


def _drawn(charts: Sequence[Chart], shows: str) -> str:
    """Markdown image of the charts: two in a row are as wide as a dialog of the UI."""
    from matplotlib import rc_context

    if not charts:
        return ""
    with rc_context(_STYLE):
        return _image(png(panels(charts, min(len(charts), 2), (2.95, 2.45))), shows)


def _image(content: bytes, shows: str) -> str:
    return f"![{shows}](data:image/png;base64,{base64.b64encode(content).decode()})"
