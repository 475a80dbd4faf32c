"""What an experiment will need of memory and disk: estimates from its configuration and the shape of its model.

Counted: weights, gradients, AdamW's state and what the backward pass keeps, of a dense transformer. A job of 75M
parameters on a CPU, in either type, with and without the control's gradients, held 0.9 to 1.2 times what is counted
here, and its peak within the optimizer's step gave `_STEP`. No GPU has confirmed it; what CUDA and its allocator take
comes on top (1 to 2 GB).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import Experiment
from pipeline.config.training import OBJECTIVE_NEEDS

GB = 1e9
_MASTER, _MOMENTS, _FP32 = 4, 8, 4
_STEP = {"float32": 12, "bfloat16": 8}
"""Bytes a parameter that are taken only during the optimizer's step, by the policy's type."""
_LIBRARIES = 600e6
"""Bytes of a process before it has a model: torch, transformers and DeepSpeed."""
_LOGITS_COPIES = 3
"""Of a chunk of the head: the logits, their exponentials, and the gradient."""
_LORA_SHARE = 0.02
"""Of the weights that an adapter of rank 16 on every layer trains, at most."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one training process. `state` stays from update to update; `work` comes with each pack."""

    state: int
    work: int
    host: int
    """In the CPU's memory, while it runs or while weights are loaded."""


def training_memory(experiment: Experiment, parameters: int, config: Mapping[str, Any], gpu: bool) -> Memory:
    """What one process of the training job holds, with a GPU or without."""
    training, wide = experiment.training, experiment.policy.dtype == "float32"
    size, zero, processes = 4 if wide else 2, training.zero_stage, training.processes * training.machines
    trained = parameters * (_LORA_SHARE if training.lora else 1.0)
    models = 2 if OBJECTIVE_NEEDS[training.objective].critic else 1
    weights = parameters * size / (processes if zero == 3 else 1)
    optimizer = trained * (_MOMENTS + (0 if wide else _MASTER)) / (processes if zero else 1)
    gradients = trained * (size + _FP32 / (processes if zero >= 2 else 1))
    measured = training.control_every > 0 and zero < 3 and training.sequence_parallel == 1
    control = 2 * trained * size if measured else 0.0
    offloaded = models * (
        (optimizer if training.offload != "none" else 0) + (weights if training.offload == "all" else 0)
    )
    state = models * (weights + optimizer + gradients) - offloaded
    step = trained * _STEP[experiment.policy.dtype] / (processes if zero else 1)
    work = max(float(_pack_bytes(experiment, config, size)), control, step if training.offload == "none" else 0.0)
    loaded = parameters * size
    if gpu:
        return Memory(int(state), int(work), int(_LIBRARIES + max(offloaded, loaded)))
    return Memory(0, 0, int(_LIBRARIES + state + offloaded + work))


def _pack_bytes(experiment: Experiment, config: Mapping[str, Any], size: int) -> int:
    """What the backward pass of one pack keeps; 0 where the configuration does not say how wide the model is."""
    hidden, layers = config.get("hidden_size"), config.get("num_hidden_layers")
    if not isinstance(hidden, int) or not isinstance(layers, int):
        return 0
    training = experiment.training
    tokens = training.micro_batch_tokens / training.sequence_parallel
    layer = (8 * hidden + 4 * int(config.get("intermediate_size") or 4 * hidden)) * size
    kept = layers * hidden * size + layer if training.activation_checkpointing else layers * layer
    head = training.head_chunk_tokens * int(config.get("vocab_size") or 0) * _FP32 * _LOGITS_COPIES
    return int(tokens * kept + head)


def disk_bytes(experiment: Experiment, parameters: int, published: int) -> tuple[int, int]:
    """(what one generation takes while it trains, what the whole run still takes) on the disk with the policies.

    A policy folder a generation stays; checkpoints of this generation and the last one of the generation before are
    kept beside it. `published` policies are there already. Trajectories are small beside that and left out.
    """
    wide = experiment.policy.dtype == "float32"
    folder = parameters * (4 if wide else 2)
    models = 2 if OBJECTIVE_NEEDS[experiment.training.objective].critic else 1
    checkpoint = models * (folder + parameters * (_MOMENTS + (0 if wide else _MASTER)))
    if experiment.training.lora:
        checkpoint = folder
    remaining = max(0, experiment.generations + 1 - published)
    once = (experiment.training.keep_checkpoints + 2) * checkpoint + folder if remaining else 0
    return once, once + max(0, remaining - 1) * folder
