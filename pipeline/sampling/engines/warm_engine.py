"""The client of a rollout service: a vLLM engine that outlives the stage, so that a generation pays no start-up.

Service and client talk in JSON lines over a Unix socket that only its user can reach. What is sampled does not depend
on whether the engine is warm: the service runs the same engine on the same shards.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.sampling.engines.base import Request, Sample, Sampling
from pipeline.sampling.engines.socket import Line
from pipeline.sampling.engines.vllm_engine import VllmEngine
from pipeline.sampling.engines.vllm_start import VllmStart

LOAD_S = 900.0
"""Seconds that a service may take to load weights, its own start included, before it counts as lost."""
# What an engine is started with. All else is said with each request, or is the stage's business.
_ENGINE_SETTINGS = {
    *("gpu_memory_utilization", "cpu_kv_cache_gb", "prefix_caching", "eager"),
    *("tensor_parallel", "pipeline_parallel"),
}


class WarmEngine:
    """See Engine. Samples through the service at a socket; without one, or when it is lost, through its own vLLM.

    The stage's log says so then. An error that the service tells is raised: an engine here would fail too.
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
        """Leave the service its engine, without the GPU memory; end an engine of our own."""
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
