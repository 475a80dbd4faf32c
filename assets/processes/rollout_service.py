"""The rollout service of an experiment under `tbrm run`: it keeps the sampling engine from generation to generation."""

import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from assets.processes.launcher import start_supervised
from pipeline.config import Experiment
from pipeline.errors import TbrmError
from pipeline.sampling.engines.warm_engine import Line, socket_path
from pipeline.store import Store

_GRACE_S = 5.0
_ANSWER_S = 120.0
_POLL_S = 0.05


class RolloutService:
    """One service process under a supervisor, which ends it and its children when this process ends in any way."""

    def __init__(self, experiment: Experiment, store: Store, command: Sequence[str], log: Path) -> None:
        self.path = socket_path(store.root_for_workers, experiment.name)
        self.command, self.log = command, log
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._our_end = -1

    def ensure(self) -> None:
        """Start the service, or start it again where it does not answer. Raises TbrmError when it still does not."""
        if self._process is not None and not self._answers():
            self.close()
        if self._process is None:
            self._start()
            if not self._answers():
                self.close()
                raise TbrmError(f"the rollout service does not answer: see {self.log}, or set rollouts.warm: false")

    def close(self) -> None:
        """End the service; returns when none of its processes is left."""
        if self._process is not None:
            os.close(self._our_end)  # then the supervisor ends the service
            self._process.wait()
            self._process = None
            self.path.unlink(missing_ok=True)

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process, self._our_end = start_supervised(self.command, _GRACE_S, os.environ, log)
        self.starts += 1

    def _answers(self) -> bool:
        """Whether the service answers within `_ANSWER_S`; one that was just started needs some seconds."""
        assert self._process is not None
        deadline = time.monotonic() + _ANSWER_S
        while self._process.poll() is None and (left := deadline - time.monotonic()) > 0:
            try:
                line = Line(self.path, left)
                line.ask({"op": "health"})
                line.close()
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(_POLL_S)
            except (OSError, TbrmError):
                return False
            else:
                return True
        return False


@contextmanager
def rollout_service(
    experiment: Experiment, store: Store, arguments: Sequence[str], log: Path
) -> Generator[RolloutService | None]:
    """The service of an experiment that wants a warm engine; None for others. `arguments` name experiment and store."""
    if experiment.rollouts is None or not experiment.rollouts.warm or experiment.on_cluster("rollouts"):
        yield None
        return
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "rollout-service", *arguments]
    service = RolloutService(experiment, store, command, log)
    try:
        yield service
    finally:
        service.close()
