"""The `tbrm` command. It knows its subcommands by name, and imports one only when that is called or described."""

import errno
import importlib
import sys
from collections.abc import Callable
from typing import Any

import click

from pipeline.errors import TbrmError, did_you_mean, disk_error
from pipeline.run.threads import settle
from pipeline.terminal import visible

COMMANDS = {
    "base-policy": "trainer.stages.cli:base_policy",
    "benchmarks": "evals.cli:benchmarks",
    "compare": "evals.cli:compare",
    "config": "pipeline.cli.config:config",
    "contamination": "pipeline.cli.contamination:contamination",
    "delta": "pipeline.cli.browse:delta",
    "diagnostics": "trainer.diagnostics.cli:diagnostics",
    "doctor": "assets.doctor.command:doctor",
    "evaluate": "evals.cli:evaluate",
    "export": "pipeline.cli.export:export",
    "grade": "pipeline.cli.grade:grade",
    "import": "pipeline.cli.import_logged:import_logged",
    "inspect": "pipeline.cli.browse:inspect",
    "leaderboard": "evals.cli:leaderboard",
    "lineage": "pipeline.cli.browse:lineage",
    "logged-labels": "pipeline.cli.stages:logged_labels",
    "patterns": "evals.cli:patterns",
    "ref-logprobs": "pipeline.cli.stages:ref_logprobs",
    "regrade": "evals.cli:regrade",
    "report": "evals.cli:report",
    "rewards": "pipeline.cli.stages:rewards",
    "rollout-service": "pipeline.cli.stages:rollout_service",
    "rollouts": "pipeline.cli.stages:rollouts",
    "run": "assets.app.cli:run",
    "show": "pipeline.cli.browse:show",
    "sql": "pipeline.cli.browse:sql",
    "status": "assets.experiment.cli:status",
    "study": "assets.studies.cli:study",
    "train": "trainer.stages.cli:train",
    "ui": "assets.app.cli:ui",
}
"""Where each command is: `module:function`. Names, not imports: commands of the rooms above stand here too."""
EXIT_USER_ERROR = 1
EXIT_CODES = {
    0: "The command did what it says, or had nothing to do.",
    EXIT_USER_ERROR: "It could not: standard error says what is wrong, where, and what to do next. Also `tbrm doctor` "
    "where something would stop a run, and `tbrm run` that was interrupted: the same command goes on from there.",
    2: "The command line is wrong: a command, option or value that there is not, or one that is missing.",
}
"""What a command ends with. 128 + n: signal n ended its process."""


def load_command(name: str) -> click.Command:
    """Import a command."""
    module, _, function = COMMANDS[name].partition(":")
    return getattr(importlib.import_module(module), function)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:  # bytes that are no text become half characters, which neither a table nor a manifest holds
            if not word.isascii() and word.encode(errors="ignore").decode() != word:
                raise click.UsageError(f"{visible(word[:200])!r} is not UTF-8: type or rename it in UTF-8", ctx)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f"No such command {args[0]!r}.{near}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return _without_disk_errors(super().invoke, ctx)
        except TbrmError as error:
            if not ctx.find_root().params.get("errors_raised"):
                click.echo(f"error: {visible(str(error))}", err=True)
                ctx.exit(EXIT_USER_ERROR)
            raise


def _without_disk_errors(invoke: Callable[[click.Context], Any], ctx: click.Context) -> Any:
    """A full or read-only disk may refuse any write, wherever it happens: it is the user's to correct."""
    try:
        return invoke(ctx)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise TbrmError(f"{str(error.filename)[:200]}: {error.strerror}") from error
        told = disk_error(error)
        if told is None:
            raise
        raise told from error


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="tbrm")
@click.option("--errors-raised", is_flag=True, hidden=True, help="Let errors reach the calling program.")
def tbrm(errors_raised: bool) -> None:
    """Post-train language models for reasoning from stored trajectories (TBRM, arXiv 2505.15311)."""


def main() -> None:
    """Entry point of the console script."""
    settle()
    tbrm(prog_name="tbrm")
    sys.exit(0)
