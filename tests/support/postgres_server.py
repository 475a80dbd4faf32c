"""A Postgres server of one's own, in a temporary folder, for as long as a test or a benchmark needs it."""

import contextlib
import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

from tests.support.served_ui import free_port


def why_no_postgres() -> str | None:
    """What is missing on this machine; None when a server can be started."""
    missing = [command for command in ("initdb", "pg_ctl") if shutil.which(command) is None]
    return f"no Postgres server here: {' and '.join(missing)} not on the path" if missing else None


@contextlib.contextmanager
def postgres_server() -> Generator[str]:
    """URL of an empty database."""
    # Postgres refuses to run as root, and cannot enter pytest's temporary folders as anybody else.
    owner = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    with tempfile.TemporaryDirectory(prefix="tbrm-postgres-") as folder:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
        run = functools.partial(subprocess.run, cwd=folder, **as_owner)
        data, port = Path(folder) / "data", free_port()
        initdb = ["initdb", "-D", str(data), "-U", "tbrm", "--auth=trust", "--no-sync"]
        made = run(initdb, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        # With a log file: the server would hold a pipe of ours open for ever.
        start = ["pg_ctl", "-D", str(data), "-w", "-l", f"{folder}/log", "-o", options, "start"]
        run(start, check=True, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql://tbrm@127.0.0.1:{port}/postgres"
        finally:
            run(["pg_ctl", "-D", str(data), "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL)
