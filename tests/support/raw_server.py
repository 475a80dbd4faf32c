"""An HTTP server that answers with any bytes, at any pace: what a hostile or broken server can do."""

import json
import socketserver
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Write = Callable[[bytes], object]
Answer = Callable[[Write], object]


@dataclass
class Raw:
    """`answer(write)` is called for each request; `seen` holds their heads (request line and headers), `bodies` the
    rest."""

    answer: Answer
    seen: list[str] = field(default_factory=list[str])
    bodies: list[bytes] = field(default_factory=list[bytes])
    stopping: threading.Event = field(default_factory=threading.Event)
    url: str = ""


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def told(tree: Any) -> Answer:
    """Answers 200 with a JSON text."""
    return lambda write: write(http(json.dumps(tree).encode()))


@contextmanager
def raw_server(answer: Answer) -> Generator[Raw]:
    """Runs until the block ends; connections that are still served are cut then."""
    raw = Raw(answer)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = self.rfile.readline()
                if not line:
                    return
                head += line
            raw.seen.append(head.decode("latin-1"))
            sizes = [line for line in head.lower().splitlines() if line.startswith(b"content-length:")]
            raw.bodies.append(self.rfile.read(int(sizes[0].split(b":")[1])) if sizes else b"")
            try:
                raw.answer(self.wfile.write)
            except OSError:
                return  # the client has had enough

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = False
        block_on_close = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        raw.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield raw
        finally:
            raw.stopping.set()
            server.shutdown()
            thread.join()
