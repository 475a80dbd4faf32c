"""An S3 server that fails on demand: `python -m tests.faults.s3_server PORT CONTROL_FILE`.

moto answers, unless the control file (JSON) says otherwise: `slow_s` seconds before each answer (up to, at random),
`refuse` the share of requests that are turned away with 503 before anything is done, `lose` the share that is done
but whose answer never arrives, `seed` for the choice.
"""

import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.support.served_ui import free_port

BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Failing:
    """A WSGI application around another one."""

    def __init__(self, inner: Callable[..., Iterable[bytes]], control: Path) -> None:
        self.inner, self.control = inner, control
        self._orders: tuple[str, dict[str, float], random.Random] = ("", {}, random.Random(0))
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            text = self.control.read_text(encoding="utf-8") or "{}"
            if text != self._orders[0]:
                orders: dict[str, float] = json.loads(text)
                self._orders = (text, orders, random.Random(orders.get("seed", 0)))
            _, orders, rng = self._orders
            slow, chance = rng.random() * orders.get("slow_s", 0.0), rng.random()
        time.sleep(slow)
        if chance < orders.get("refuse", 0.0):
            start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
            return [BUSY]
        answer = self.inner(environ, start)
        if chance > 1.0 - orders.get("lose", 0.0):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return answer


def start_server(control: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server in a process of its own; returns it and its URL once it answers."""
    control.write_text("{}", encoding="utf-8")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.s3_server", str(port), str(control)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process, f"http://127.0.0.1:{port}"
        except OSError:
            assert process.poll() is None, "the S3 server ended"
            assert time.monotonic() < until, "the S3 server does not answer"
            time.sleep(0.1)


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    inner: Any = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", int(sys.argv[1]), Failing(inner, Path(sys.argv[2])), threaded=True)


if __name__ == "__main__":
    main()
