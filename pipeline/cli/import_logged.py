"""`tbrm import`."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import json_option, print_report, replace_option, store_options
from pipeline.errors import ConfigError
from pipeline.terminal import visible

if TYPE_CHECKING:
    from pipeline.run.resumable import StageReport
    from pipeline.store import Manifest, Store


@click.command("import")
@click.argument("files", nargs=-1, required=True)
@click.option("--name", required=True, help="Data set logged/NAME.")
@click.option(
    "--tokenizer",
    required=True,
    help="Folder, hub id, package:NAME or builtin:NAME: the tokenizer of the policies that will train on the data.",
)
@click.option(
    "--from", "source", default="", metavar="NAME", help="Format of the log (docs/import.md); else it is recognized."
)
@click.option(
    "--reward",
    "rewards",
    multiple=True,
    metavar="NAME=WEIGHT,…",
    help="Numbers of a row whose weighted sum is the reward, e.g. accuracy=1,format=0.5.",
)
@click.option(
    "--where", multiple=True, metavar="FIELD=VALUE", help="Only rows with this value, e.g. filter=strict-match."
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="OURS=THEIRS,…",
    help="Our field = path in the log, e.g. prompt=question,response=outputs[].text. Else fields are recognized.",
)
@click.option("--policy", default="unknown", show_default=True, help="Behaviour policy, where rows do not name theirs.")
@click.option(
    "--template",
    type=click.Choice(["auto", "raw", "restore", "qwen-math", "r1", "chat"]),
    default="auto",
    show_default=True,
    help="raw: prompts are logged as the model saw them; auto: as far as the log does not show the contrary; "
    "restore: special tokens of the chat template were lost; otherwise prompts are bare questions.",
)
@click.option("--append-eos/--no-append-eos", default=True, show_default=True, help="Close responses logged as text.")
@click.option("--length-limit", type=click.IntRange(min=1), help="Tokens at which the sampler cut responses off.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=131_072, show_default=True, help="Longest response.")
@click.option("--max-row-mb", type=click.FloatRange(min=0.001), default=16.0, show_default=True, help="Largest row.")
@click.option(
    "--max-bad-share",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="More bad rows than this stop the import before anything is committed.",
)
@click.option(
    "--duplicates",
    type=click.Choice(["rows", "responses", "keep"]),
    default="rows",
    show_default=True,
    help="Drop repeated source rows, repeated (prompt, response) pairs, or nothing.",
)
@click.option("--generation", "-g", type=click.IntRange(min=0), default=0, show_default=True, help="Partition.")
@click.option(
    "--rows-per-shard", type=click.IntRange(min=1), default=4_096, show_default=True, help="Rows of one shard."
)
@replace_option
@store_options
@json_option
def import_logged(
    files: Sequence[str],
    mapping: Sequence[str],
    rewards: Sequence[str],
    where: Sequence[str],
    max_row_mb: float,
    store: "Store",
    replace: bool,
    as_json: bool,
    **settings: Any,
) -> "StageReport":
    """Import logged trajectories of any behaviour policy as data set logged/NAME.

    FILES are JSONL, JSON, CSV, Parquet, Arrow (also .gz and .zst) or folders, such as `datasets` saves them. Logs of
    many trainers, environments and harnesses are recognized: docs/import.md lists them. Bad rows go to table
    `quarantine` with file, row, field and reason.
    """
    from pipeline.logged.importer import ImportSettings, run_import
    from pipeline.run.resumable import StageReport

    imported = run_import(
        ImportSettings(
            files=tuple(files),
            mapping=parse_mapping(mapping),
            rewards=parse_weights(rewards),
            where=parse_pairs("--where", where, "filter=strict-match"),
            max_row_bytes=int(max_row_mb * 2**20),
            **settings,
        ),
        store,
        replace,
    )
    manifest = imported.manifest
    stats = dict(manifest.stats)
    stats |= {f"field {ours}": theirs for ours, theirs in imported.fields.items()}
    if not imported.skipped and (faults := _not_understood(store, manifest)):
        from pipeline.rewards.golds import counted

        stats["gold_answers_not_understood"] = len(faults)
        shown = "; ".join(f"{answer!r:.60}: {reason:.80}" for answer, reason in list(faults.items())[:3])
        click.echo(
            f"{counted(len(faults))}, and only the same text is right there: {visible(shown)}",
            err=True,
        )
    for line in imported.first:
        click.echo(f"read as: {visible(line)}", err=True)
    for line in imported.lacks:
        click.echo(f"note: {visible(line)}", err=True)
    report = StageReport(
        "import", manifest.dataset, manifest.generation, manifest.rows, imported.seconds, imported.skipped, stats
    )
    return print_report(report, as_json)


def _not_understood(store: "Store", manifest: "Manifest") -> dict[str, str]:
    """Gold answers of the imported prompts that verifiers of mathematics will not be able to compare."""
    from pipeline.rewards.golds import not_understood

    prompts = store.partition(manifest.dataset, "prompts", manifest.generation)
    answers: dict[str, None] = {}
    for _, rows in prompts.iter_shards(["answer", "verifier"]):
        for answer, verifier in zip(rows["answer"].to_pylist(), rows["verifier"].to_pylist(), strict=True):
            if answer and verifier in (None, "", "math_verify", "r1_format"):
                answers[answer] = None
    return not_understood(answers)


def parse_mapping(given: Sequence[str]) -> dict[str, str]:
    """`prompt=question,reward=extra.score` as a dictionary. Raises ConfigError."""
    return parse_pairs("--map", [part for text in given for part in text.split(",")], "prompt=question", "OURS=THEIRS")


def parse_weights(given: Sequence[str]) -> dict[str, float]:
    """`accuracy=1,format=0.5` as a dictionary; a name alone has the weight 1. Raises ConfigError."""
    parts = [part if "=" in part else f"{part}=1" for text in given for part in text.split(",")]
    found: dict[str, float] = {}
    for name, weight in parse_pairs("--reward", parts, "accuracy=1", "NAME=WEIGHT").items():
        try:
            found[name] = float(weight)
        except ValueError as error:
            raise ConfigError(f"--reward {name}={weight}: the weight must be a number") from error
        if not math.isfinite(found[name]):
            raise ConfigError(f"--reward {name}={weight}: the weight must be a finite number")
    return found


def parse_pairs(option: str, given: Sequence[str], example: str, form: str = "FIELD=VALUE") -> dict[str, str]:
    """`name=value` texts as a dictionary. Raises ConfigError."""
    found: dict[str, str] = {}
    for part in given:
        name, sep, value = part.partition("=")
        if not sep or not name.strip() or not value.strip():
            raise ConfigError(f"{option} {part!r}: write it as {form}, e.g. {example}")
        found[name.strip()] = value.strip()
    return found
