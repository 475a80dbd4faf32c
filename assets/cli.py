"""`tbrm run` and `tbrm ui`."""

from collections.abc import Sequence

import click

from assets.ports import DEFAULT_PORT
from pipeline.cli_options import root_option, set_option
from pipeline.errors import TbrmError
from pipeline.store import exclusive, open_store


@click.command()
@click.argument("experiment")
@root_option
@set_option
def run(experiment: str, root: str | None, overrides: Sequence[str]) -> None:
    """Run every generation of EXPERIMENT (a name or a path) that is not finished yet, and print the summary.

    Stop it at any time, however hard: the same command goes on from there.
    """
    from assets.headless import run_loop
    from assets.instance import open_instance, prepare_home, storage_errors
    from assets.launcher import LocalLauncher
    from assets.resources import StoreLocation
    from assets.serve import link
    from assets.sources import read_experiment
    from assets.terminal import Terminal

    source = read_experiment(experiment, overrides)
    store = open_store(root)
    home = prepare_home(store)
    terminal = Terminal()
    with exclusive(str(home / "running" / source.name)), storage_errors(home), open_instance(store) as instance:
        try:
            last = run_loop(source, StoreLocation(root=store.root), LocalLauncher(), instance, terminal)
        except KeyboardInterrupt:
            raise TbrmError("stopped from outside (Ctrl-C or SIGTERM); the same command goes on from there") from None
    _summarize(source.name, experiment, root, overrides)
    option = f" --root {root}" if root else ""
    click.echo(f"\nOpen this run in the Dagster UI: tbrm ui{option}")
    page = f"runs/{last}" if last else f"locations/assets.definitions/asset-groups/{source.name}"
    try:
        click.echo(f"then {link(home, DEFAULT_PORT, page)}")
    except TbrmError as error:  # nobody can come in by this link, but the runs are done
        click.echo(f"then http://127.0.0.1:{DEFAULT_PORT}/{page}\nwarning: {error}")


def _summarize(name: str, experiment: str, root: str | None, overrides: Sequence[str]) -> None:
    """The table and picture of the finished experiment."""
    from evals.summary import summarize
    from pipeline.config import load_experiment

    summarize(load_experiment(experiment, overrides), open_store(root))


@click.command()
@root_option
@click.option(
    "--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="Port on 127.0.0.1."
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name (or name:port) under which a proxy serves the UI to browsers. Repeatable.",
)
@click.option("--no-token", is_flag=True, help="Ask nobody for the token: only behind a proxy that logs users in.")
def ui(root: str | None, port: int, hosts: Sequence[str], no_token: bool) -> None:
    """Serve the Dagster UI (webserver, daemon and code location) on 127.0.0.1 until Ctrl-C.

    Open the printed address: the token in it lets your browser in, and nobody else of this machine.
    """
    from assets.serve import serve

    serve(open_store(root), port, hosts, token=not no_token)
