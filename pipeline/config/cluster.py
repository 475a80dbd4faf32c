"""Where stages run when the machine of Dagster is not enough: as jobs of a scheduler, or shard by shard on Ray."""

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Config

RayStage = Literal["rollouts", "rewards", "ref_logprobs"]
LaunchedStage = Literal[
    "base_policy",
    "logged_labels",
    "rollouts",
    "rewards",
    "ref_logprobs",
    "trained_policy",
    "base_scores",
    "benchmark_scores",
    "pinned_scores",
]


class LaunchConfig(Config):
    """A job a stage. The machines share the file system of this checkout, its environment and a local store root."""

    by: Literal["slurm", "ray_job", "kubernetes"]
    """`slurm`: `srun` of the machine that runs Dagster; `ray_job`: Ray's job server (extra `ray`); `kubernetes`: a pod,
    by `kubectl` of that machine (extra `kubernetes`)."""
    stages: dict[LaunchedStage, tuple[str, ...]] = Field(min_length=1)
    """Stages by the name of their asset, each with options of `srun`, of `ray job submit` or of `kubectl`, such as
    `--gpus=4`, `--entrypoint-num-gpus=4` or `--namespace=ml`; under `kubernetes` also with limits of the container,
    such as `nvidia.com/gpu=4`. Stages that are not named run on Dagster's machine."""
    pod: dict[str, Any] = Field(default={})
    """Spec of the pod, as Kubernetes writes it, with the image of its first container, volumes and secrets."""
    address: str = ""
    """Of Ray's job server, such as `http://head:8265`; empty: $RAY_API_SERVER_ADDRESS."""

    @model_validator(mode="after")
    def _fields_fit(self) -> "LaunchConfig":
        if self.by != "ray_job" and self.address:
            raise ValueError(f"`address` is that of Ray's job server; `by: {self.by}` is configured on this machine")
        if (self.by == "kubernetes") != bool(self.pod):
            raise ValueError("`pod` is the spec of a pod, which `by: kubernetes` needs and nothing else takes")
        return self


class RayConfig(Config):
    """Shards of a generation as work of a Ray cluster (extra `ray`). It changes where, never what is computed."""

    address: str = "auto"
    """`auto`: the cluster that this machine is part of; `local`: one started for the stage on this machine;
    `ray://host:10001`: a remote one; or `host:6379`."""
    stages: tuple[RayStage, ...] = ("rollouts", "rewards", "ref_logprobs")
    """Stages that run there."""
    workers: int = Field(default=1, gt=0)
    """Copies of the model (or of the grader) that work on shards at once: data parallelism."""
    cpus: float = Field(default=1, ge=0)
    """CPUs that one worker reserves."""
    gpus: float = Field(default=0, ge=0)
    """GPUs that one worker of rollouts and ref_logprobs reserves; at least tensor_parallel * pipeline_parallel."""
    attempts: int = Field(default=4, gt=0)
    """How many workers may be lost over one shard before the stage fails."""
    straggler_factor: float = Field(default=3.0, gt=1)
    """A shard that takes this many times the median is also given to an idle worker; the first result counts."""
