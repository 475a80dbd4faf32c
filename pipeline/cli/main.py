"""The `tbrm` command. Rooms contribute commands through the entry-point group `tbrm.commands`, loaded when called."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from pipeline.errors import TbrmError, disk_error
from pipeline.run.threads import settle
from pipeline.terminal.text import visible

GROUP = "tbrm.commands"
EXIT_USER_ERROR = 1


class _LazyGroup(click.Group):
    """Knows its commands by name, imports one only to run it or to show its help line."""

    def _found(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._found())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._found().get(cmd_name)
        return entry.load() if entry else None

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
