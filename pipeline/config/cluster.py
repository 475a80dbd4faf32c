"""Which stages run as jobs of a cluster's scheduler instead of beside Dagster."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.base import Config

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
