"""`tbrm ui`: webserver, daemon and code location as one process tree on 127.0.0.1."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from assets.app.guard import HOST as HOST_PATTERN
from assets.app.instance import POSTGRES_URL, open_instance, prepare_home
from assets.app.ports import HOST, check_port
from assets.app.token import ui_token
from assets.processes.supervisor import __file__ as supervisor_file
from assets.processes.warm_start import keep_warm, stage_environment
from pipeline.errors import TbrmError
from pipeline.store import Store, exclusive

_GRACE_S = 330.0
"""Seconds for all that runs to end. A training saves a checkpoint first (`training.stop_grace_s`)."""
# Notices to Dagster's developers, not to its users: previews.
_UNSAID = "ignore:Function `PipesMessageReader"


def link(home: Path, port: int, path: str = "") -> str:
    """Address of a page of the UI with this DAGSTER_HOME, token included. Raises TbrmError like `ui_token`."""
    return f"http://{HOST}:{port}/{path}?token={ui_token(home)}"


def serve(store: Store, port: int, hosts: Sequence[str] = (), token: bool = True) -> None:
    """Serve until Ctrl-C. `hosts` are further names under which a proxy serves the UI; `token` False: it logs users in.

    Raises TbrmError when a name is none, the port is taken, this store's UI is served already, or it ends by itself.
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
        read_end, write_end = os.pipe()
        server = [sys.executable, "-m", "assets.app.webserver", "--port", str(port), *options]
        with keep_warm(stage_environment(environment)) as warm:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(supervisor_file)), str(read_end), str(_GRACE_S), *server],
                env=environment | warm,
                pass_fds=(read_end,),
                start_new_session=True,
            )
            os.close(read_end)
            try:
                code = process.wait()
            except KeyboardInterrupt:
                code = 0
                click.echo("Ending. A training under way saves a checkpoint first, which may take minutes", err=True)
            os.close(write_end)
            process.wait()
        if code:
            raise TbrmError(f"the UI has ended by itself (exit status {code}): the lines above say why. Start it again")
