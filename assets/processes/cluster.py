"""Stages as jobs of Slurm or of Ray's job server, or as pods of Kubernetes, followed from here to their end.

Each job is submitted by the scheduler's own command, which runs under the supervisor. So the contract of `Launcher`
holds here too: the job ends when Dagster's process does. (The Pipes clients of dagster-ray and dagster-k8s leave their
job running when their caller is killed; of the latter this uses what makes the pod.)
"""

import copy
import json
import os
import sys
import uuid
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dagster import DagsterError
from dagster_pipes import (
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    PIPES_PROTOCOL_VERSION_FIELD,
    PipesDefaultMessageWriter,
    decode_param,
    encode_param,
)
from pydantic import Field

from assets.processes.launcher import Ended, Launcher, Process, follow
from assets.processes.warm_start import UNBUFFERED
from pipeline.config import Experiment
from pipeline.errors import TbrmError, needing

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

    def ask(self, job: str) -> list[list[str]]:
        """Commands that tell job `job` to save what it has and end; none where the scheduler cannot."""
        del job
        return []

    def run(self, process: Process) -> Ended:
        job = f"tbrm-{uuid.uuid4().hex[:12]}"
        env, take = _messages_from_stdout(process.env)
        submit = self.submit(job, process.command, {**UNBUFFERED, **env})
        ask = self.ask(job) if process.grace_s else []
        ending = {"ask": ask, "cancel": self.cancel(job), "grace_s": process.grace_s}
        follower = [sys.executable, "-I", "-S", str(_JOB), json.dumps(ending), *submit]
        # The job settles by itself how many threads it computes with: its machine may have other cores than this one.
        environment = {**os.environ, **UNBUFFERED, **env}
        grace_s = self.grace_s + process.grace_s
        return follow(replace(process, command=follower), environment, grace_s, child_first=True, take=take)


class SlurmLauncher(ClusterLauncher):
    """`srun`: the job inherits the environment and the folder of this process.

    A stage of several machines gets them all by `salloc`, and runs on the first.
    """

    machines: int = Field(default=1, gt=0, description="Nodes of the job.")

    def submit(self, job: str, command: Sequence[str], env: Mapping[str, str]) -> list[str]:
        # One task in either case: the stage starts the processes of a training itself, on whichever machines.
        if self.machines > 1:
            whole = ["salloc", f"--job-name={job}", f"--nodes={self.machines}", "--no-bell", *self.options]
            return [*whole, "srun", "--nodes=1", "--ntasks=1", "--unbuffered", "--cpu-bind=none", *command]
        return ["srun", f"--job-name={job}", "--ntasks=1", "--unbuffered", *self.options, *command]

    def cancel(self, job: str) -> list[str]:
        return ["scancel", "--quiet", f"--name={job}"]

    def ask(self, job: str) -> list[list[str]]:
        # Not SIGTERM: every process of the job would get it, and a `srun` among them would kill what it has started.
        # (A plain scancel sends SIGTERM, and SIGKILL after Slurm's own KillWait, 30 s by default.)
        return [[*self.cancel(job), "--state=PENDING"], [*self.cancel(job), "--signal=USR1"]]


class RayJobLauncher(ClusterLauncher):
    """`ray job submit`: the job gets `env` and the folder of this process, nothing else of its environment.

    (A runtime environment is readable in Ray's dashboard, and ours may hold keys.)
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


_POD_TO_ITS_END = """
job=$1; pod=$2; shift 2
printf %s "$pod" | kubectl create "$@" -f - || exit 1
look() { kubectl get pod "$job" "$@" -o "jsonpath={.status.$field}"; }
field=phase
while phase=$(look "$@") && [ "$phase" = Pending ]; do sleep 1; done
kubectl logs "$job" "$@" --follow
field='containerStatuses[0].state.terminated.exitCode'
while code=$(look "$@") && [ -z "$code" ]; do sleep 1; done
kubectl delete pod "$job" "$@" --wait=false
exit "${code:-1}"
"""
"""Create a pod, copy its output, take its exit status. (`kubectl run --attach` loses what came before it.)"""


class KubernetesLauncher(ClusterLauncher):
    """A pod, by `kubectl`: its image holds this package, its spec the volumes and secrets that the stage needs.

    The pod gets `env` and nothing else of this process's environment.
    """

    pod: dict[str, Any] = Field(default={}, description="Spec of the pod, as Kubernetes writes it.")

    def submit(self, job: str, command: Sequence[str], env: Mapping[str, str]) -> list[str]:
        manifest = json.dumps(self.manifest(job, command, env))
        return ["sh", "-c", _POD_TO_ITS_END, "sh", job, manifest, *self._kubectl_options]

    def cancel(self, job: str) -> list[str]:
        return ["kubectl", "delete", "pod", job, "--ignore-not-found", "--now", "--wait=false", *self._kubectl_options]

    def ask(self, job: str) -> list[list[str]]:
        # Not by deleting it: Kubernetes would forget the exit status, and end the pod after a time of its own.
        return [["kubectl", "exec", job, *self._kubectl_options, "--", "kill", "-USR1", "1"]]

    def manifest(self, job: str, command: Sequence[str], env: Mapping[str, str]) -> dict[str, Any]:
        """The pod as Dagster's Pipes client for Kubernetes makes it. Raises TbrmError where the spec is none."""
        with needing("kubernetes", "launch.by: kubernetes"):
            from dagster_k8s.pipes import build_pod_body
            from kubernetes.client import ApiClient

        spec = copy.deepcopy(self.pod)
        limits = dict(option.split("=", 1) for option in self.options if not option.startswith("-"))
        try:
            if limits:
                spec["containers"][0].setdefault("resources", {}).setdefault("limits", {}).update(limits)
            body = build_pod_body(job, None, ["python", *command[1:]], env, None, spec)
        except (DagsterError, KeyError, IndexError, TypeError, ValueError) as error:
            raise TbrmError(f"launch.pod is no spec of a pod with an image in its first container: {error}") from error
        plain: Any = ApiClient().sanitize_for_serialization(body)
        return {"apiVersion": "v1", "kind": "Pod", **plain}

    @property
    def _kubectl_options(self) -> list[str]:
        return [option for option in self.options if option.startswith("-")]


def launcher_of(experiment: Experiment, stage: str, trains: bool, otherwise: Launcher) -> Launcher:
    """What runs the stage with this asset name: the cluster of `launch` where it names the stage, else `otherwise`.

    A stage that `trains` gets as many machines as the training wants.
    """
    launch = experiment.launch
    options = next((list(o) for name, o in launch.stages.items() if name == stage), None) if launch else None
    if launch is None or options is None:
        return otherwise
    if launch.by == "slurm":
        training = experiment.training
        return SlurmLauncher(
            options=options, machines=training.machines if trains and training.machines_by == "slurm" else 1
        )
    if launch.by == "kubernetes":
        return KubernetesLauncher(options=options, pod=launch.pod)
    return RayJobLauncher(options=options, address=launch.address)


def _messages_from_stdout(env: Mapping[str, str]) -> tuple[dict[str, str], Callable[[bytes], bool]]:
    """Let the job write its Pipes messages among its output; returns the function that takes them out again.

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
