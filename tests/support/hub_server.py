"""A server on this machine that speaks the calls of the Hugging Face hub by which its client uploads a folder."""

import base64
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What was asked of the server."""

    url: str
    made: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Bodies of the calls that make a repository."""
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Path in the repository -> content, of the commits."""
    commits: list[str] = field(default_factory=list[str])
    tokens: set[str] = field(default_factory=set[str])
    refuse: bool = False
    """Answer as the hub does to a token that may not write."""


@contextmanager
def hub_server() -> Generator[Hub]:
    hub = Hub("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            hub.tokens.add(str(self.headers.get("Authorization")))
            if hub.refuse:
                self._answer(403, {"error": "You don't have the rights to create a repo under the namespace somebody"})
            elif self.path == "/api/repos/create":
                hub.made.append(json.loads(body))
                name = hub.made[-1]["name"]
                self._answer(200, {"url": f"{hub.url}/somebody/{name}", "name": f"somebody/{name}", "id": "1"})
            elif self.path.endswith("/preupload/main"):
                asked = json.loads(body)["files"]
                answer = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                self._answer(200, {"files": answer})
            elif "/commit/" in self.path:
                hub.commits.append(self.path)
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                place = self.path.removeprefix("/api/").partition("/commit/")[0].removeprefix("models/")
                address = f"{hub.url}/{place}/commit/{COMMIT}"
                self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": address})
            else:
                self._answer(200, {"errors": [], "warnings": []})

        def _answer(self, status: int, tree: dict[str, Any]) -> None:
            data = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
