"""The engine of a rollout service: a vLLM engine that outlives the stage, so that a generation pays no start-up.

Stage and service talk in JSON lines over a Unix socket that only its user can reach. What is sampled does not depend on
whether the engine is warm: the service runs the same engine on the same shards.
"""

import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import TbrmError
from pipeline.sampling.engines.base import Request, Sample, Sampling
from pipeline.sampling.engines.vllm_engine import VllmEngine
from pipeline.sampling.engines.vllm_start import VllmStart
from pipeline.store import text_hash

LOAD_S = 900.0
"""Seconds that a service may take to load weights, its own start included, before it counts as lost."""
# The settings that an engine is started with. All others are sent with each request, or concern the stage alone.
_ENGINE_SETTINGS = {
    *("gpu_memory_utilization", "cpu_kv_cache_gb", "prefix_caching", "eager"),
    *("tensor_parallel", "pipeline_parallel"),
}


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
    """A connection to the service: one JSON object a line, each with an answer. Raises OSError when it is lost."""

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


class WarmEngine:
    """See Engine. Samples through the service at a socket, or through a vLLM of its own where no service answers.

    The stage's log says so then. An error that the service reports is raised: a vLLM of our own would fail as well.
    """

    name = "vllm"

    def __init__(self, service: Path, start: VllmStart) -> None:
        self._start, self._own, self._line = start, None, None
        message = {
            "op": "load",
            "policy": asdict(start.policy),
            "dtype": start.dtype,
            "engine": start.engine.model_dump(mode="json", include=_ENGINE_SETTINGS),
            "stop_ids": start.stop_ids,
            "room": start.room,
        }
        try:
            self._line = Line(service, LOAD_S)
            self.version = str(self._line.ask(message)["version"])
            self._line.socket.settimeout(None)  # sampling takes as long as it takes
        except OSError as error:
            self._go_cold(error)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        if self._line is not None:
            try:
                return self._ask(self._line, requests, sampling)
            except OSError as error:
                self._go_cold(error)
        assert self._own is not None
        return self._own.generate(requests, sampling)

    def close(self) -> None:
        """The service keeps its engine and gives the GPU memory back; an engine of our own is ended."""
        if self._line is not None:
            try:
                self._line.ask({"op": "rest"})
                self._line.close()
            except OSError as error:
                logging.getLogger(__name__).warning("the rollout service is lost (%s)", error)
        if self._own is not None:
            self._own.close()

    def _ask(self, line: Line, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        message = {"op": "generate", "requests": [asdict(r) for r in requests], "sampling": asdict(sampling)}
        return [Sample(**sample) for sample in line.ask(message)["samples"]]

    def _go_cold(self, error: OSError) -> None:
        logging.getLogger(__name__).warning("no rollout service (%s): vLLM starts in this stage", error)
        self._line = None
        self._own = VllmEngine(self._start)
        self.version = self._own.version
