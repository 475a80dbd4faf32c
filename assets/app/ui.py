"""`tbrm ui`: webserver, daemon and code location as one process tree on 127.0.0.1."""

import os
import sys
from collections.abc import Callable, Sequence

import click

from assets.app.access import HOST, check_port, link
from assets.app.guard import HOST as HOST_PATTERN
from assets.app.instance import POSTGRES_URL, open_instance, prepare_home
from assets.processes.launcher import start_supervised
from assets.processes.warm_start import keep_warm, stage_environment
from pipeline.errors import TbrmError
from pipeline.store import Store, exclusive

_GRACE_S = 330.0
"""Seconds for all that runs to end. A training saves a checkpoint first (`training.stop_grace_s`)."""
# A notice that a function of Dagster is a preview: it concerns us, not the users of the UI.
_UNSAID = "ignore:Function `PipesMessageReader"


def serve(
    store: Store,
    port: int,
    hosts: Sequence[str] = (),
    token: bool = True,
    told: Callable[[dict[str, str | int]], None] | None = None,
) -> None:
    """Serve until Ctrl-C. `hosts` are further names under which a proxy serves the UI.

    With `token` False nobody is asked for the token: the proxy logs users in. `told` hears the address. Raises
    TbrmError for a name that is none, for a port in use, when this store's UI is served already, and when the UI ends
    by itself.
    """
    for host in hosts:
        if not HOST_PATTERN.fullmatch(host.lower()):
            raise TbrmError(f"--allow-host {host!r}: write a name, or name:port, without http:// and without path")
    check_port(port)
    home = prepare_home(store)
    # Two daemons on one home would run every sensor twice.
    with exclusive(str(home / "running" / "ui")):
        if POSTGRES_URL in os.environ:
            open_instance(store).dispose()  # the servers below open it all at once, without a lock on an empty database
        address = link(home, port) if token else f"http://{HOST}:{port}"
        if told is not None:
            told({"root": store.root, "address": address, "port": port})
        click.echo(f"Dagster UI of {store.root}: {address}   (Ctrl-C stops it)", err=True)
        if not token:
            click.echo(
                "warning: --no-token: every user and program of this machine can start runs as you. Use it only behind "
                "a proxy that logs users in, on a machine that nobody else uses",
                err=True,
            )
        options = [part for host in hosts for part in ("--allow-host", host.lower())]
        options += [] if token else ["--no-token"]
        # Dagster then logs an error of the code location once, as under `dagster dev`.
        environment = {"PYTHONWARNINGS": _UNSAID, "DAGSTER_IS_DEV_CLI": "1", **os.environ}
        server = [sys.executable, "-m", "assets.app.webserver", "--port", str(port), *options]
        with keep_warm(stage_environment(environment)) as warm:
            process, our_end = start_supervised(server, _GRACE_S, environment | warm, None)
            try:
                code = process.wait()
            except KeyboardInterrupt:
                code = 0
                click.echo("Ending. A training under way saves a checkpoint first, which may take minutes", err=True)
            os.close(our_end)
            process.wait()
        if code:
            raise TbrmError(f"the UI has ended by itself (exit status {code}): the lines above say why. Start it again")
