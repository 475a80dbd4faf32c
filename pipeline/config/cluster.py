"""Where stages run when the machine of Dagster is not enough: as jobs of a scheduler, or shard by shard on Ray."""

from typing import Literal

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

    by: Literal["slurm", "ray_job"]
    """`slurm`: `srun` of the machine that runs Dagster; `ray_job`: Ray's job server (extra `ray`)."""
    stages: dict[LaunchedStage, tuple[str, ...]] = Field(min_length=1)
    """Stages by the name of their asset, each with options of `srun` or of `ray job submit`, such as `--gpus=4` or
    `--entrypoint-num-gpus=4`. Stages that are not named run on Dagster's machine."""
    address: str = ""
    """Of Ray's job server, such as `http://head:8265`; empty: $RAY_API_SERVER_ADDRESS."""

    @model_validator(mode="after")
    def _slurm_has_no_address(self) -> "LaunchConfig":
        if self.by == "slurm" and self.address:
            raise ValueError("`address` is that of Ray's job server; `by: slurm` finds its controller in slurm.conf")
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
