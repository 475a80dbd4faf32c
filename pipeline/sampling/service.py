"""The rollout service: one vLLM engine for all generations of an experiment, which takes their weights in place."""

import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.rollouts import EngineConfig
from pipeline.errors import TbrmError
from pipeline.policies.refs import PolicyRef
from pipeline.sampling.engines.base import Request, Sampling
from pipeline.sampling.engines.vllm_engine import VllmEngine
from pipeline.sampling.engines.vllm_start import VllmStart


class Service:
    """What the service answers. It has no engine before the first `load`."""

    def __init__(self) -> None:
        self.engine: VllmEngine | None = None
        self.settings: Mapping[str, Any] = {}
        self.policy = ""

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one message. Raises TbrmError."""
        match message["op"]:
            case "health":
                return {"policy": self.policy}
            case "load":
                return self._load(message)
            case "rest":
                if self.engine is not None:
                    self.engine.rest()
                return {}
            case "generate" if self.engine is not None:
                requests = [Request(**request) for request in message["requests"]]
                samples = self.engine.generate(requests, Sampling(**message["sampling"]))
                return {"samples": [vars(sample) for sample in samples]}
            case op:
                raise TbrmError(f"the rollout service cannot {op} now")

    def _load(self, message: Mapping[str, Any]) -> dict[str, Any]:
        policy = PolicyRef(**message["policy"])
        settings = {name: message[name] for name in ("dtype", "engine", "stop_ids", "room")}
        settings["adapter"] = policy.adapter
        if self.engine is not None and settings == self.settings:
            self.engine.load(policy)
        else:
            self.close()
            config = EngineConfig.model_validate(settings["engine"])
            start = VllmStart(policy, settings["dtype"], config, tuple(settings["stop_ids"]), settings["room"])
            self.engine = VllmEngine(start, stays=True)
        self.settings, self.policy = settings, policy.policy_id
        return {"version": self.engine.version}

    def close(self) -> None:
        """End the engine."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None


def serve(path: Path) -> None:
    """Answer at the Unix socket `path`, one connection after another, until the process ends.

    An error that is no TbrmError ends the service: who started it starts another.
    """
    path.unlink(missing_ok=True)  # of a service that was killed
    service = Service()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        try:
            while True:
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb") as stream:
                    _converse(service, stream)
        finally:
            path.unlink(missing_ok=True)
            service.close()


def _converse(service: Service, stream: Any) -> None:
    try:
        for line in stream:
            try:
                answer = service.answer(json.loads(line))
            except TbrmError as error:
                answer = {"error": str(error)}
            stream.write(json.dumps(answer).encode() + b"\n")
            stream.flush()
    except OSError as error:  # the stage was killed; the next one calls again
        sys.stderr.write(f"rollout service: {error}\n")
