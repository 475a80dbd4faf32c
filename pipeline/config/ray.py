"""Where shards are worked on when one machine is not enough."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Config

RayStage = Literal["rollouts", "rewards", "ref_logprobs"]


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
