"""Low-rank adapters through peft, injected into the model in place; the published policy has them merged."""

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.config.training import LoraConfig
from pipeline.errors import TbrmError

_BASE, _DOWN, _UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapters(model: Any, config: LoraConfig) -> None:
    """Give `model` adapters that start at zero, and freeze everything else. Raises TbrmError without peft."""
    try:
        import peft
    except ImportError as error:
        raise TbrmError(
            "training.lora needs peft: `pip install 'tbrm[lora]'`, or remove `lora` from the YAML"
        ) from error

    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, task_type="CAUSAL_LM")  # pyright: ignore[reportArgumentType]
    try:
        peft.inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise TbrmError(f"training.lora.target_modules: {error}") from error


def merged(state: Mapping[str, torch.Tensor], config: LoraConfig) -> dict[str, torch.Tensor]:
    """The weights of the plain model: W + (alpha / rank) B A for each layer with an adapter, in the type of W."""
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        layer, _, kind = name.partition(_BASE)
        down, up = state.get(layer + _DOWN), state.get(layer + _UP)
        if kind == "weight" and down is not None and up is not None:
            change = (up.float() @ down.float()) * (config.alpha / config.rank)
            tensor = (tensor.float() + change).to(tensor.dtype)
        plain[name.replace(_BASE, ".")] = tensor
    return plain
