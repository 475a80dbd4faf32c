"""What the graph says about an asset besides its metrics: columns, row counts, sample rows."""

import base64
from typing import Any

from dagster import MetadataValue, TableColumn, TableColumnConstraints, TableSchema

from assets.experiment.stages import Stage
from assets.pages.plots import accuracy_plot, training_plot
from evals.report.markdown import scores_markdown
from evals.statistics.scores import read_scores
from pipeline.config import Experiment
from pipeline.store import SCHEMAS, Store
from trainer.diagnostics.numbers import PLOT_FILE, read_diagnostics
from trainer.diagnostics.view import markdown

_SAMPLE_ROWS = 8
_SAMPLE_CHARS = 160
_COLUMNS = {
    "trajectory_id": "hash of data set, generation, prompt_id and sample_index: a repeated run makes the same",
    "prompt_token_ids": "what the policy saw; token ids are the truth, text is for people",
    "response_token_ids": "actions a_1..a_H",
    "response_mask": "false: the token was written by the environment, not by the policy",
    "behavior_logprobs": "log π_b(a_h | s_h) in nats; TBRM does not need it",
    "reward": "r(τ)",
    "status": "ok, wrong_format, timeout, memory or error",
    "ref_logprob_sum": "Σ_h log π_ref(a_h | s_h) in nats",
    "ref_token_logprobs": "log π_ref(a_h | s_h) in nats, one a response token",
    "ref_value_first": "V_ref(s_1) = log Σ_a exp logit(s_1, a), in nats",
    "policy_id": "content hash of the sampling policy's weights and tokenizer",
    "correct": "verdict in [0, 1]",
}


def describe(stage: Stage, experiment: Experiment) -> str:
    """Description of an asset in Markdown."""
    head = stage.description.replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n\n")
    objective = (
        f"\n\nObjective here: `{experiment.training.objective}`, β = {experiment.training.beta}."
        if stage.command == "train"
        else ""
    )
    return head + objective


def column_schema(table: str) -> TableSchema:
    """Columns of a table of the store, as Dagster's pages show them."""
    return TableSchema(
        [
            TableColumn(f.name, str(f.type), _COLUMNS.get(f.name), TableColumnConstraints(nullable=f.nullable))
            for f in SCHEMAS[table]
        ]
    )


def table_metadata(
    stage: Stage, store: Store | None = None, experiment: Experiment | None = None, generation: int = 0
) -> dict[str, Any]:
    """Column schema; with a store also row count, bytes, manifest hash and a few rows of the committed partition."""
    if stage.table is None:
        if stage.name != "trained_policy" or store is None or experiment is None:
            return {}
        curves = MetadataValue.md(training_plot(store, experiment.name, generation))
        return {"curves": curves, **diagnostics_metadata(store, experiment.name, generation)}
    found: dict[str, Any] = {"dagster/column_schema": column_schema(stage.table)}
    if store is None or experiment is None:
        return found
    partition = store.partition(experiment.name, stage.table, generation + stage.offset)
    manifest = partition.manifest()
    found |= {
        "dagster/row_count": manifest.rows,
        "dagster/uri": partition.path,
        "bytes": manifest.bytes,
        "shards": len(manifest.shards),
        "manifest_hash": manifest.hash,
    }
    if stage.name == "rollouts":
        found["sample_responses"] = MetadataValue.md(sample_responses(store, experiment.name, generation))
    if stage.name == "rewards":
        found["sample_trajectories"] = MetadataValue.md(sample_trajectories(store, experiment.name, generation))
    if stage.table == "scores":
        scores = read_scores(store, experiment.name, generation + stage.offset)
        found["benchmarks"] = MetadataValue.md(scores_markdown(scores, store.root))
        found["accuracy"] = MetadataValue.md(accuracy_plot(store, experiment.name, generation + stage.offset))
    return found


def diagnostics_metadata(store: Store, name: str, generation: int) -> dict[str, Any]:
    """The training mix against the policy it trained: a table by source and lag, and the plot beside the policy."""
    found = read_diagnostics(store, name, generation)
    if not found:
        return {}
    folder = store.join(name, "trained_policy", f"generation={generation:04d}")
    plot = base64.b64encode(store.read_bytes(f"{folder}/{PLOT_FILE}")).decode()
    return {
        "off_policy_diagnostics": MetadataValue.md(markdown(found)),
        "off_policy_plot": MetadataValue.md(
            f"![residuals, distance from the reference, effective samples](data:image/png;base64,{plot})"
        ),
    }


def sample_responses(store: Store, dataset: str, generation: int) -> str:
    """Markdown table of the first responses of a generation, before anything labelled them."""
    columns = ["prompt_id", "response_text", "response_token_ids", "finish_reason"]
    rollouts = store.partition(dataset, "rollouts", generation).read_shard(0, columns).slice(0, _SAMPLE_ROWS)
    text_of = _prompt_texts(store, dataset, generation)
    lines = ["| prompt | response | tokens | ended by |", "|---|---|---|---|"]
    for row in rollouts.to_pylist():
        prompt, response = _cell(text_of.get(row["prompt_id"], "")), _cell(row["response_text"])
        lines.append(f"| {prompt} | {response} | {len(row['response_token_ids'])} | {_cell(row['finish_reason'])} |")
    return "\n".join(lines)


def _prompt_texts(store: Store, dataset: str, generation: int) -> dict[str, str]:
    """Texts of the first shard's prompts by prompt_id."""
    prompts = store.partition(dataset, "prompts", generation).read_shard(0, ["prompt_id", "prompt_text"]).to_pylist()
    return {row["prompt_id"]: row["prompt_text"] for row in prompts}


def sample_trajectories(store: Store, dataset: str, generation: int) -> str:
    """Markdown table of the first trajectories of a generation with their rewards."""
    text_of = _prompt_texts(store, dataset, generation)
    rollouts = store.partition(dataset, "rollouts", generation).read_shard(0, ["prompt_id", "response_text"])
    rewards = store.partition(dataset, "rewards", generation).read_shard(0, ["reward", "status", "extracted_answer"])
    lines = ["| prompt | response | answer found | reward | status |", "|---|---|---|---|---|"]
    for rollout, label in zip(
        rollouts.slice(0, _SAMPLE_ROWS).to_pylist(), rewards.slice(0, _SAMPLE_ROWS).to_pylist(), strict=True
    ):
        prompt, response = (_cell(t) for t in (text_of.get(rollout["prompt_id"], ""), rollout["response_text"]))
        answer = _cell(label["extracted_answer"] or "")
        lines.append(f"| {prompt} | {response} | {answer} | {label['reward']:g} | {label['status']} |")
    return "\n".join(lines)


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
