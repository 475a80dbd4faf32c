"""A torchrun agent on each of several machines of a Ray cluster: an actor a machine, which owns its agent's process."""

import hashlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray  # pyright: ignore[reportMissingImports]  # an extra
from ray.exceptions import GetTimeoutError, RayError  # pyright: ignore[reportMissingImports]
from ray.util.placement_group import placement_group, remove_placement_group  # pyright: ignore[reportMissingImports]
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # pyright: ignore[reportMissingImports]

from pipeline.errors import TbrmError

_ROOM_S = 600.0
"""Seconds to wait until the cluster has the machines free."""
_LOOK_EVERY_S = 0.5


class _Agent:
    """Runs one agent; `stop` comes while `run` is under way, in another thread of the actor."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def meeting(self) -> str:
        """Address of this machine, and a port that is free there."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def digest(self, path: str) -> str:
        """SHA-256 of a file, empty where this machine does not see it."""
        file = Path(path)
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""

    def run(self, agent: Sequence[str], options: Sequence[str], environment: Mapping[str, str], folder: str) -> int:
        """Exit status of the agent, which ends with this actor. It sees the GPUs that Ray has given the actor."""
        own = {name: value for name, value in os.environ.items() if name == "CUDA_VISIBLE_DEVICES"}
        command = [*agent, f"--local-addr={ray.util.get_node_ip_address()}", *options]
        self.process = subprocess.Popen(command, env={**environment, **own}, cwd=folder)
        return self.process.wait()

    def stop(self) -> None:
        """Ask the agent to save and end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


class RayAgents:
    """One agent on each of `machines` machines, with `processes` GPUs each where the cluster has GPUs."""

    def __init__(self, machines: int, processes: int) -> None:
        """Take the machines. Raises TbrmError when they cannot be had."""
        try:
            if not ray.is_initialized():
                ray.init(address="auto", log_to_driver=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise TbrmError(
                f"training.machines_by: ray: no cluster can be reached from here ({error}); join one with `ray start`"
            ) from error
        gpus = float(processes) if ray.cluster_resources().get("GPU") else 0.0
        bundle = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
        self._group: Any = placement_group([bundle] * machines, strategy="STRICT_SPREAD")
        try:
            ray.get(self._group.ready(), timeout=_ROOM_S)
        except GetTimeoutError as error:
            remove_placement_group(self._group)
            raise TbrmError(
                f"training.machines: {machines}: the Ray cluster had no {machines} machines with {bundle} free within "
                f"{_ROOM_S:.0f} s"
            ) from error
        actor: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(_Agent)
        places = [PlacementGroupSchedulingStrategy(self._group, index) for index in range(machines)]
        self._agents = [actor.options(max_concurrency=2, scheduling_strategy=place).remote() for place in places]
        self._running: list[Any] = []
        self._asked = False

    def digests(self, file: Path) -> list[str]:
        """What each machine sees of a file."""
        return ray.get([agent.digest.remote(str(file)) for agent in self._agents])

    def meeting(self) -> str:
        """Where the agents can meet: a port of the first machine."""
        return str(ray.get(self._agents[0].meeting.remote()))

    def start(self, agent: Sequence[str], options: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the agents; the first holds the meeting."""
        for number, machine in enumerate(self._agents):
            hosts = f"--rdzv-conf=is_host={number == 0}"
            given = ([*agent, hosts], list(options), dict(environment), str(Path.cwd()))
            self._running.append(machine.run.remote(*given))

    def send_signal(self, _number: int) -> None:
        """Note that every agent shall save and end, whatever the signal. `wait` asks them: a handler must not."""
        self._asked = True

    def wait(self) -> int:
        """Wait for all agents; when one fails, ask the others to end. Returns the first status other than 0, or 0."""
        left, first, told = list(self._running), 0, False
        while left:
            done, left = ray.wait(left, timeout=_LOOK_EVERY_S)
            for reference in done:
                try:
                    code = int(ray.get(reference))
                except RayError:  # its machine is lost
                    code = 1
                first, self._asked = first or code, self._asked or code != 0
            if self._asked and not told:
                told = True
                for agent in self._agents:
                    agent.stop.remote()
        return first

    def close(self) -> None:
        """Give the machines back."""
        for agent in self._agents:
            ray.kill(agent)
        remove_placement_group(self._group)
