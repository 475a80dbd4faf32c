"""docs/reference.md: every command with its options, exit codes, tables, metrics and printed columns, from the code."""

from collections.abc import Iterator, Mapping

import click

from assets.experiment.meanings import METRICS, PRINTED
from pipeline.cli.main import COMMANDS, EXIT_CODES, load_command
from pipeline.markdown import markdown_table
from pipeline.store import SCHEMAS
from pipeline.store.schema import MEANINGS


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand, by the words that call it."""
    for name in sorted(COMMANDS):
        command = load_command(name)
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", found) for below, found in sorted(command.commands.items()))


def reference_page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, "## Commands", *(_command(name, command) for name, command in commands())]
    parts += [
        "## Exit codes",
        markdown_table(("code", "meaning"), ((str(code), text) for code, text in EXIT_CODES.items())),
    ]
    parts += [
        "## Tables of the store",
        "Columns of the Parquet files ([data](data.md)); `?`: may be null.",
    ]
    for name, schema in SCHEMAS.items():
        rows = ((f"`{f.name}`", f"{f.type}{'?' if f.nullable else ''}", MEANINGS[f.name]) for f in schema)
        parts += [f"### {name}", markdown_table(("column", "type", "what it is"), rows)]
    parts += ["## Metrics", "What stages report, and manifests keep. `*` stands for what varies, such as a benchmark."]
    parts += [part for name, lines in METRICS.items() for part in (f"### {name}", _meanings("metric", lines))]
    parts += [
        "## Columns that commands print",
        "`*` stands for what varies. `tbrm sql` prints those of its query.",
    ]
    parts += [part for name, lines in PRINTED.items() for part in (f"### tbrm {name}", _meanings("column", lines))]
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"tbrm {name}")
    usage = " ".join([f"tbrm {name}", *command.collect_usage_pieces(context)])
    said = (command.help or "").split("\n\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in said]
    options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    rows = ((_spelling(option, context), _default(option), option.help or "") for option in options)
    table = [markdown_table(("option", "default", "meaning"), rows)] if options else []
    return "\n\n".join([f"### tbrm {name}", f"`{usage}`", *paragraphs, *table])


def _spelling(option: click.Option, context: click.Context) -> str:
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    return ", ".join(f"`{word}{value}`" for word in (*option.opts, *option.secondary_opts))


def _default(option: click.Option) -> str:
    """The default where the help shows it; otherwise its text says what happens without the option."""
    return "required" if option.required else str(option.default) if option.show_default else ""


def _meanings(what: str, lines: Mapping[str, str]) -> str:
    return markdown_table((what, "what it is"), ((f"`{name}`", text) for name, text in lines.items()))


_INTRODUCTION = """# Reference

Every command and option, exit code, table, metric and printed column. This page is written from the code by
`scripts/write-configuration`; `tbrm COMMAND --help` says the same of a command. The fields of a YAML file are in
[configuration](configuration.md).

EXPERIMENT is the name of a file in `experiments/`, or a path; EXPERIMENT:GENERATION names a generation of it as well,
and `-e` and `-g` say the same. Every command takes `--root`, and `--json`: one JSON document on standard output,
everything else on standard error. A model or a tokenizer is a folder, a hub id, `package:NAME` or `builtin:NAME`."""
