"""`tbrm ui`: webserver, daemon and code location as one process tree on 127.0.0.1."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import click

from assets.instance import POSTGRES_URL, open_instance, prepare_home
from assets.supervisor import __file__ as supervisor_file
from pipeline.errors import TbrmError
from pipeline.store import Store, exclusive

HOST = "127.0.0.1"
_GRACE_S = 8.0
# Notices to Dagster's developers, not to its users: that there is a newer front end for `dagster dev`, and previews.
_UNSAID = "ignore:Function `dev_command,ignore:Function `PipesMessageReader"


def check_port(port: int) -> None:
    """Raises TbrmError when something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise TbrmError(
                f"port {port} of {HOST} is in use ({error.strerror}): is the UI open already? Else take --port"
            ) from error


def serve(store: Store, port: int) -> None:
    """Serve until Ctrl-C. Raises TbrmError when the port is taken or this store's UI is served already."""
    check_port(port)
    home = prepare_home(store)
    # Two daemons on one home would run every sensor twice.
    with exclusive(str(home / "running" / "ui")):
        if POSTGRES_URL in os.environ:
            open_instance(store).dispose()  # the servers below open it all at once, without a lock on an empty database
        click.echo(f"Dagster UI of {store.root}: http://{HOST}:{port}   (Ctrl-C stops it)", err=True)
        read_end, write_end = os.pipe()
        dagster = [sys.executable, "-m", "dagster", "dev", "-m", "assets.definitions", "-h", HOST, "-p", str(port)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(supervisor_file)), str(read_end), str(_GRACE_S), *dagster],
            env={"PYTHONWARNINGS": _UNSAID, **os.environ},
            pass_fds=(read_end,),
            start_new_session=True,
        )
        os.close(read_end)
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()
        os.close(write_end)
        process.wait()
