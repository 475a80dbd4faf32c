"""`tbrm import`."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import Finite, json_option, print_report, replace_option, store_options
from pipeline.errors import ConfigError, TbrmError
from pipeline.terminal import visible

if TYPE_CHECKING:
    from pipeline.logged.summary import ImportReport
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
@click.option("--max-row-mb", type=Finite(0.001, 4_096), default=16.0, show_default=True, help="Largest row.")
@click.option(
    "--max-bad-share",
    type=Finite(0, 1),
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
@click.option(
    "--generation", "-g", type=click.IntRange(0, 999_999_999), default=0, show_default=True, help="Partition."
)
@click.option(
    "--rows-per-shard", type=click.IntRange(min=1), default=4_096, show_default=True, help="Rows of one shard."
)
@click.option(
    "--watch",
    is_flag=True,
    help="Go on with what a running trainer appends (JSON lines) or adds (files), a generation for each part, until "
    "Ctrl-C.",
)
@click.option("--until-idle", type=Finite(min=0), metavar="SECONDS", help="End --watch when nothing came for so long.")
@replace_option
@store_options
@json_option
def import_logged(
    files: Sequence[str],
    mapping: Sequence[str],
    rewards: Sequence[str],
    where: Sequence[str],
    max_row_mb: float,
    watch: bool,
    until_idle: float | None,
    store: "Store",
    replace: bool,
    as_json: bool,
    **settings: Any,
) -> "StageReport | None":
    """Import logged trajectories of any behaviour policy as data set logged/NAME.

    FILES are JSONL, JSON, CSV, Parquet, Arrow (also .gz and .zst), folders, such as `datasets` saves them, wildcards,
    or addresses of these (s3://bucket/logs/*.jsonl). Logs of many trainers, environments and harnesses are recognized:
    docs/import.md lists them. Bad rows go to table `quarantine` with file, row, field and reason.
    """
    from pipeline.logged.importer import ImportSettings, run_import
    from pipeline.logged.watch import run_watch

    asked = ImportSettings(
        files=tuple(files),
        mapping=parse_mapping(mapping),
        rewards=parse_weights(rewards),
        where=parse_pairs("--where", where, "filter=strict-match"),
        max_row_bytes=int(max_row_mb * 2**20),
        **settings,
    )
    if watch:
        if replace:
            raise ConfigError("--watch goes on with what is there, and --replace writes it anew: give one of them")
        parts = run_watch(asked, store, until_idle, lambda imported: _print(imported, store, as_json))
        click.echo(f"{parts} parts were imported; the same command goes on from here", err=True)
        return None
    if until_idle is not None:
        raise ConfigError("--until-idle says when --watch ends: give --watch as well")
    try:
        return _print(run_import(asked, store, replace), store, as_json)
    except KeyboardInterrupt:
        raise TbrmError(
            "stopped from outside; nothing is committed yet. Finished shards are kept: the same command goes on there"
        ) from None


def _print(imported: "ImportReport", store: "Store", as_json: bool) -> "StageReport":
    from pipeline.logged.summary import WATCHED
    from pipeline.run.resumable import StageReport

    manifest = imported.manifest
    stats = {name: value for name, value in manifest.stats.items() if name != WATCHED}
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
    from pipeline.rewards.answers.reading import LONGEST
    from pipeline.rewards.golds import not_understood

    def answers() -> Iterator[str]:
        prompts = store.partition(manifest.dataset, "prompts", manifest.generation)
        for _, rows in prompts.iter_shards(["answer", "verifier"]):
            for answer, verifier in zip(rows["answer"].to_pylist(), rows["verifier"].to_pylist(), strict=True):
                if answer and verifier in (None, "", "math_verify", "r1_format"):
                    yield answer[: LONGEST + 1]  # a longer one is not read either

    return not_understood(answers())


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
