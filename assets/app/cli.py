"""`tbrm run` and `tbrm ui`."""

from collections.abc import Sequence

import click

from assets.app.access import DEFAULT_PORT
from pipeline.cli.options import experiment_argument, json_option, print_json, root_option, set_option
from pipeline.errors import TbrmError


@click.command()
@experiment_argument()
@root_option
@set_option
@click.option("--name", help="Run it under this name: with --set, another experiment of the same YAML.")
@click.option(
    "--fork-from",
    type=click.IntRange(min=0),
    metavar="G",
    help="With --name: start from policy[G] of EXPERIMENT, and train on its trajectories as far as `replay` reaches.",
)
@json_option
def run(
    experiment: str, root: str | None, overrides: Sequence[str], name: str | None, fork_from: int | None, as_json: bool
) -> None:
    """Run every generation of EXPERIMENT (a name or a path) that is not finished yet, and print the summary.

    Stop it at any time, however hard: the same command goes on from there. It does not go on from what other settings
    have made: give changed settings a --name of their own.
    """
    from assets.app.access import DEFINITIONS, link
    from assets.app.instance import open_instance, prepare_home, storage_errors
    from assets.app.run_to_end import run_loop
    from assets.app.terminal import Terminal
    from assets.experiment.source import branch_experiment, read_known
    from assets.experiment.status import status_of
    from assets.graph.step import StoreLocation
    from assets.processes.launcher import LocalLauncher
    from evals.report.summary import summarize
    from pipeline.store import exclusive, open_store

    if fork_from is not None and name is None:
        raise click.UsageError("--fork-from needs --name: the name of the new experiment")
    store = open_store(root)
    source = read_known(experiment, store, [*overrides, *([f"name={name}"] if name else [])])
    if fork_from is not None:
        branch_experiment(store, read_known(experiment, store), fork_from, source.experiment)
    home = prepare_home(store)
    terminal = Terminal()
    with exclusive(str(home / "running" / source.name)), storage_errors(home), open_instance(store) as instance:
        try:
            last = run_loop(source, StoreLocation(root=store.root), LocalLauncher(), instance, terminal)
        except KeyboardInterrupt:
            raise TbrmError("stopped from outside (Ctrl-C or SIGTERM); the same command goes on from there") from None
    summarize(source.experiment, store)
    page = f"runs/{last}" if last else f"locations/{DEFINITIONS}/asset-groups/{source.name}"
    warning = ""
    try:
        address = link(home, DEFAULT_PORT, page)
    except TbrmError as error:  # this link lets nobody in, but the runs are done
        address, warning = f"http://127.0.0.1:{DEFAULT_PORT}/{page}", str(error)
    if as_json:
        print_json({"run": last, "page": address, "status": status_of(store, source.experiment).to_json()})
    else:
        option = f" --root {root}" if root else ""
        click.echo(f"\nOpen this run in the Dagster UI: tbrm ui{option}\nthen {address}")
    if warning:
        click.echo(f"warning: {warning}", err=True)


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
@json_option
def ui(root: str | None, port: int, hosts: Sequence[str], no_token: bool, as_json: bool) -> None:
    """Serve the Dagster UI (webserver, daemon and code location) on 127.0.0.1 until Ctrl-C.

    Open the printed address: the token in it lets your browser in, and nobody else of this machine. The document of
    --json has it as well, and comes when the servers are started.
    """
    from assets.app.ui import serve
    from pipeline.store import open_store

    serve(open_store(root), port, hosts, token=not no_token, told=print_json if as_json else None)
