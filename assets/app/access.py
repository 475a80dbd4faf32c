"""How `tbrm ui` is reached: its address and port, and its token, in a file of Dagster's home that only its owner reads.

The token stays the same, so that a link that was printed once keeps working.
"""

import contextlib
import os
import re
import secrets
import socket
import stat
from pathlib import Path

from pipeline.errors import TbrmError

HOST = "127.0.0.1"
DEFAULT_PORT = 3000
DEFINITIONS = "assets.definitions"
"""The module that Dagster serves, and the name of its code location."""
_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,256}")


def check_port(port: int) -> None:
    """Raise TbrmError when something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise TbrmError(
                f"port {port} of {HOST} is in use ({error.strerror}): is the UI open already? Else take --port"
            ) from error


def link(home: Path, port: int, path: str = "") -> str:
    """Address of a page of the UI with this DAGSTER_HOME, token included. Raises TbrmError like `ui_token`."""
    return f"http://{HOST}:{port}/{path}?token={ui_token(home)}"


def token_file(home: Path) -> Path:
    """Where the token of the UI with this DAGSTER_HOME is kept."""
    return home / "ui_token"


def ui_token(home: Path) -> str:
    """The token, made at the first call. Raises TbrmError for a file that others own or may read, or without one."""
    path = token_file(home)
    if not path.is_symlink() and not path.exists():
        _make(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise TbrmError(
            f"the UI's token cannot be read: {path} ({error.strerror}). Delete it, a new one is made"
        ) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise TbrmError(
                f"{path} holds the UI's token, and others may know it: it must be a file of yours with mode 600, but "
                f"belongs to user {found.st_uid} and has mode {found.st_mode & 0o777:o}. Delete it, a new one is made. "
                "A file system without owners cannot keep it: put DAGSTER_HOME on another one"
            )
        token = os.read(descriptor, 512).decode("ascii", errors="replace").strip()
    finally:
        os.close(descriptor)
    if not _TOKEN.fullmatch(token):
        raise TbrmError(f"{path} holds no token (32 or more of A-Z a-z 0-9 _ -). Delete it, a new one is made")
    return token


def _make(path: Path) -> None:
    """Write a new token, unless another process has just done so. A hard link appears with the whole file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(_BYTES) + "\n")
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
