"""Stages as jobs of Slurm or of Ray's job server, followed from here to their end.

Both are the scheduler's own command line tools under the supervisor, so the contract of `Launcher` holds for them too:
a job ends when Dagster's process does. (dagster-ray's Pipes client leaves its job running when its caller is killed.)
"""

import json
import sys
import uuid
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dagster_pipes import (
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    PIPES_PROTOCOL_VERSION_FIELD,
    PipesDefaultMessageWriter,
    decode_param,
    encode_param,
)
from pydantic import Field

from assets.launcher import Ended, Launcher, follow
from pipeline.config import Experiment

_JOB = Path(__file__).with_name("cluster_job.py")
_MESSAGE = f'{{"{PIPES_PROTOCOL_VERSION_FIELD}"'.encode()
_ON_STDOUT = {PipesDefaultMessageWriter.STDIO_KEY: PipesDefaultMessageWriter.STDOUT}


class ClusterLauncher(Launcher):
    """Submits a stage as one job and copies its output here."""

    options: list[str] = Field(default=[], description="Options of the command that submits, such as GPUs to reserve.")
    grace_s: float = Field(default=30.0, gt=0, description="Seconds that cancelling a job may take.")

    @abstractmethod
    def submit(self, job: str, command: Sequence[str], env: Mapping[str, str]) -> list[str]:
        """The command that runs `command` as job `job` and waits for it, its output on standard output."""

    @abstractmethod
    def cancel(self, job: str) -> list[str]:
        """The command that ends job `job`, whatever its state."""

    def run(self, command: Sequence[str], env: Mapping[str, str], log: Path, processes: int = 1) -> Ended:
        job = f"tbrm-{uuid.uuid4().hex[:12]}"
        env, take = _messages_from_stdout(env)
        submit = self.submit(job, command, {"PYTHONUNBUFFERED": "1", **env})
        return follow(
            [sys.executable, "-I", "-S", str(_JOB), json.dumps(self.cancel(job)), *submit], self.grace_s, env, log, take
        )


class SlurmLauncher(ClusterLauncher):
    """`srun`: the job inherits the environment and the folder of this process."""

    def submit(self, job: str, command: Sequence[str], env: Mapping[str, str]) -> list[str]:
        # One task: torchrun starts the processes of a training step itself.
        return ["srun", f"--job-name={job}", "--ntasks=1", "--unbuffered", *self.options, *command]

    def cancel(self, job: str) -> list[str]:
        return ["scancel", "--quiet", f"--name={job}"]


class RayJobLauncher(ClusterLauncher):
    """`ray job submit`: the job gets `env` and the folder of this process, nothing else of its environment.

    (A runtime environment is readable in Ray's dashboard: no place for the keys that ours may hold.)
    """

    address: str = Field(default="", description="Of Ray's job server; empty: $RAY_API_SERVER_ADDRESS.")

    def submit(self, job: str, command: Sequence[str], env: Mapping[str, str]) -> list[str]:
        runtime = json.dumps({"env_vars": dict(env)})
        named = [f"--submission-id={job}", f"--runtime-env-json={runtime}", *self.options]
        return [*self._ray("submit"), *named, "--", "env", f"--chdir={Path.cwd()}", *command]

    def cancel(self, job: str) -> list[str]:
        return [*self._ray("stop"), job]

    def _ray(self, verb: str) -> list[str]:
        address = [f"--address={self.address}"] if self.address else []
        return [sys.executable, "-m", "ray.scripts.scripts", "job", verb, *address]


def launcher_of(experiment: Experiment, stage: str, otherwise: Launcher) -> Launcher:
    """What runs the stage with this asset name: the cluster of `launch`, or `otherwise`."""
    launch = experiment.launch
    options = next((list(o) for name, o in launch.stages.items() if name == stage), None) if launch else None
    if launch is None or options is None:
        return otherwise
    if launch.by == "slurm":
        return SlurmLauncher(options=options)
    return RayJobLauncher(options=options, address=launch.address)


def _messages_from_stdout(env: Mapping[str, str]) -> tuple[dict[str, str], Callable[[bytes], bool]]:
    """Let the job write its Pipes messages among its output; returns what takes them out of it again.

    Dagster reads them from a file on this machine, where the job, on another, cannot write.
    """
    path = Path(decode_param(env[DAGSTER_PIPES_MESSAGES_ENV_VAR])["path"])

    def take(line: bytes) -> bool:
        if not line.startswith(_MESSAGE):
            return False
        with path.open("ab") as file:
            file.write(line)
        return True

    return {**env, DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param(_ON_STDOUT)}, take
