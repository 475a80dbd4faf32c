"""Arithmetic of an update, for MFU: what the model's mathematics asks for, without anything that is computed twice."""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.config.training import OBJECTIVE_NEEDS, TrainingConfig
from pipeline.scoring.batch import Trajectory

_PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
    "A100": 312.0,
    "A10G": 70.0,
    "L40S": 362.0,
    "L4": 121.0,
    "B200": 2_250.0,
}
"""Dense bf16 tensor-core peaks of the data sheets; the first name that the device's name contains."""


def update_flops(model: Any, batch: Sequence[Trajectory], training: TrainingConfig) -> float:
    """Floating-point operations of forward and backward over a batch: 2 for each multiply-add.

    A weight costs 6 for each token it sees (with LoRA 4: its gradient is not computed), causal attention of a sequence
    of L tokens 6 L² · width a layer, the head only response tokens. A critic costs the backbone once more. Exact for
    dense transformers; for mixtures of experts all experts are counted, so that the figure is too large.
    """
    config = model.config
    head = config.vocab_size * config.hidden_size
    embeddings = head if config.tie_word_embeddings else 2 * head
    weights = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()) - embeddings
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    lengths = [len(t.prompt_ids) + len(t.response_ids) for t in batch]
    responses = sum(int(t.response_mask.sum()) for t in batch)
    each = 6.0 if training.lora is None else 4.0
    attention = 6.0 * config.num_hidden_layers * width * sum(length**2 for length in lengths)
    backbone = each * weights * sum(lengths) + attention
    models = 2 if OBJECTIVE_NEEDS[training.objective].critic else 1
    return models * backbone + each * head * responses


def peak_flops() -> float | None:
    """bf16 operations a second that this process's GPU can do at most; None on CPUs and unknown devices."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((1e12 * peak for known, peak in _PEAK_TFLOPS.items() if known in name), None)
