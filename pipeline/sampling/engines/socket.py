"""Where a rollout service listens, and how one talks with it: JSON lines over a Unix socket of its user alone."""

import json
import os
import socket
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import TbrmError
from pipeline.store import text_hash


def socket_path(root: str, experiment: str) -> Path:
    """Where the service of an experiment listens. Raises TbrmError when the folder is not this user's own.

    Not in the store: that may be a bucket, and the path of a socket has at most some hundred characters.
    """
    folder = Path(tempfile.gettempdir()) / f"tbrm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise TbrmError(f"{folder} is not a folder that belongs to this user alone: remove it, or set TMPDIR")
    return folder / f"{text_hash(json.dumps([root, experiment]))[:16]}.sock"


class Line:
    """A connection to the service: one JSON object a line, an answer to each. Raises OSError when it is lost."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rwb")

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The service's answer. Raises TbrmError with the error that it tells instead."""
        self.stream.write(json.dumps(message).encode() + b"\n")
        self.stream.flush()
        line = self.stream.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the rollout service closed the connection")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TbrmError(answer["error"])
        return answer

    def close(self) -> None:
        """Hang up."""
        self.stream.close()
        self.socket.close()
