"""Where `tbrm ui` listens."""

import socket

from pipeline.errors import TbrmError

HOST = "127.0.0.1"
DEFAULT_PORT = 3000


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
