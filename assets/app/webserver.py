"""The processes behind `tbrm ui`: Dagster's web app inside our guard, its code server, and its daemon.

`dagster dev` starts the same three, but leaves no place for a guard around the web app. Dagster has no public way to
start them one by one: every private import below is what `dagster dev` uses, in the pinned version of Dagster.
"""

import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from subprocess import Popen, TimeoutExpired

import click
import uvicorn
import yaml
from dagster import DagsterInstance
from dagster import __version__ as dagster_version
from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget
from dagster._utils.log import configure_loggers
from dagster_webserver.app import create_app_from_workspace_process_context

from assets.app.access import DEFINITIONS, HOST, token_file, ui_token
from assets.app.guard import Access, guarded

_LIVE_DATA_EVERY_MS = 2_000
_STATEMENT_TIMEOUT_MS = 15_000
_POOL_RECYCLE_S = 3_600
_POOL_OVERFLOW = 20
_GRACE_S = 3


def access_of(home: Path, hosts: Sequence[str], token: bool) -> Access:
    """Who may use the UI with this DAGSTER_HOME. Raises TbrmError when its token cannot be kept secret."""
    remedy = (
        "Open the address with `?token=` that `tbrm ui` and `tbrm run` print. Programs send the header "
        f"`Authorization: Bearer TOKEN`. The token is kept in {token_file(home)}, which only its owner reads."
    )
    return Access(ui_token(home) if token else None, tuple(hosts), remedy)


@contextlib.contextmanager
def _workspace(instance: DagsterInstance) -> Generator[Path]:
    """Start the code server; gives the workspace file that names it, for the web app and the daemon."""
    target = ModuleTarget(DEFINITIONS, attribute=None, working_directory=str(Path.cwd()), location_name=None)
    with (
        ProxyServerManager(instance, target, code_server_log_level="warning") as servers,
        tempfile.TemporaryDirectory(prefix="tbrm-ui-") as folder,
    ):
        path = Path(folder) / "workspace.yaml"
        path.write_text(yaml.safe_dump({"load_from": list(servers.get_code_server_specs())}), encoding="utf-8")
        yield path


@contextlib.contextmanager
def _daemon(workspace: Path) -> Generator[Popen[bytes]]:
    """Sensors, schedules and the queue, in a process that ends with this one."""
    process = Popen([sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace)])
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=_GRACE_S)
        except TimeoutExpired:  # the daemon sometimes hangs after SIGTERM, with nothing left to do
            process.kill()
            process.wait()


def _stop_with(daemon: Popen[bytes], server: uvicorn.Server) -> None:
    """Stop the server when the daemon ends: a UI without sensors and queue would look as if it worked."""
    code = daemon.wait()
    if not server.should_exit:
        click.echo(f"error: the dagster-daemon process shut down unexpectedly with return code {code}", err=True)
        server.should_exit = True


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--allow-host", "hosts", multiple=True)
@click.option("--token/--no-token", default=True)
def main(port: int, hosts: Sequence[str], token: bool) -> None:
    """Serve until SIGTERM, SIGINT or the daemon's end. DAGSTER_HOME names the instance."""
    configure_loggers(log_level="INFO")
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # a KeyboardInterrupt, too
    with contextlib.suppress(KeyboardInterrupt):
        _serve(port, hosts, token)
        sys.exit(1)  # the server has ended although nobody asked it to


def _serve(port: int, hosts: Sequence[str], token: bool) -> None:
    with (
        DagsterInstance.get() as instance,
        _workspace(instance) as workspace,
        _daemon(workspace) as daemon,
        WorkspaceProcessContext(instance, WorkspaceFileTarget([str(workspace)]), version=dagster_version) as context,
    ):
        instance.optimize_for_webserver(_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_S, _POOL_OVERFLOW)
        app = create_app_from_workspace_process_context(context, live_data_poll_rate=_LIVE_DATA_EVERY_MS)
        guard = guarded(app, access_of(Path(instance.root_directory), hosts, token))
        settings = uvicorn.Config(guard, host=HOST, port=port, log_level="warning", timeout_graceful_shutdown=_GRACE_S)
        server = uvicorn.Server(settings)
        threading.Thread(target=_stop_with, args=(daemon, server), daemon=True).start()
        server.run()


if __name__ == "__main__":
    main()
