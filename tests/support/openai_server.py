"""A small OpenAI-compatible server over a tiny policy, for tests: real HTTP, real sampling."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline.config.policy import PolicyConfig, PolicyFolder
from pipeline.config.rollouts import RolloutsConfig
from pipeline.policies.load_save import load_tokenizer
from pipeline.policies.refs import foreign_policy
from pipeline.sampling.engines import Request, Sampling, load_engine


class Served:
    """The policy behind the server, and what was asked of it. `faults` are (status, body) sent before any answer."""

    def __init__(self, folder: Path) -> None:
        policy = foreign_policy(PolicyFolder(folder))
        config = PolicyConfig(base=str(folder), dtype="float32")
        self.tokenizer = load_tokenizer(policy.path)
        self.engine = load_engine(RolloutsConfig(engine="transformers"), config, policy, self.tokenizer)
        self.lock = threading.Lock()
        self.models = ["tiny"]
        self.faults: list[tuple[int, bytes]] = []
        self.seen: list[dict[str, Any]] = []

    def complete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        chat = path.endswith("/chat/completions")
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        sampling = Sampling(body["temperature"], body["top_p"], 0, body["max_tokens"])
        sample = self.engine.generate([Request(ids, body["seed"])], sampling)[0]
        text = self.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "choices": [content | {"index": 0, "finish_reason": sample.finish_reason}],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(sample.token_ids)},
        }


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, Served]]:
    """Serve the policy in `folder`; gives the base URL and what stands behind it."""
    served = Served(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, json.dumps({"data": [{"id": name} for name in served.models]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with served.lock:
                served.seen.append(body | {"path": self.path, "key": self.headers.get("Authorization")})
                fault = served.faults.pop(0) if served.faults else None
                reply = fault or (200, json.dumps(served.complete(self.path, body)).encode())
            self._send(*reply)

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
