"""What an arm of a study would cost on GPUs: counted from its experiment, the model's shape and a few assumed speeds.

Nothing of this was measured. The arithmetic is of weights, tokens and bytes; what had to be assumed is in `Assumed`.
`python -m assets.studies.estimate` prints the parts of every arm that has not been run.
"""

import math
import sys
from dataclasses import dataclass

from assets.studies.spec import arm_experiment, load_study, studies_folder
from pipeline.config import Experiment
from pipeline.config.training import OBJECTIVE_NEEDS
from pipeline.policies.refs import PolicyRef

_CHECKPOINT, _POLICY = 14, 2
"""Bytes a parameter, in bfloat16: weights, master weights and two moments; weights alone."""


@dataclass(frozen=True)
class Shape:
    """A model: parameters, and the width of its keys and values in a layer."""

    parameters: float
    layers: int
    kv_width: int


SHAPES = {
    "qwen25_math_1p5b_onpolicy": Shape(1.54e9, 28, 256),
    "qwen25_math_1p5b_generations": Shape(1.54e9, 28, 256),
    "smollm2_135m": Shape(0.135e9, 30, 192),
}
"""By the experiment that a size starts from."""


@dataclass(frozen=True)
class Assumed:
    """Speeds of an H100 with a local disk, and of starts."""

    flops: float = 0.4 * 989e12
    """Of scoring and training: our aim of 40% of the dense bf16 peak."""
    memory_bytes_s: float = 0.6 * 3.35e12
    """Of decoding, which reads weights and key-values for every token: 60% of the data sheet."""
    kv_memory: float = 60e9
    """Of an 80 GB GPU, for key-values."""
    sequences: int = 1_024
    """Decoded at once at most (vLLM's limit)."""
    length: float = 0.5
    """Mean length of a response, as a share of the limit; the longest reaches it."""
    prompt_tokens: int = 150
    disk_bytes_s: float = 1e9
    """Written and read."""
    hash_bytes_s: float = 1.5e9
    """SHA-256 on one core."""
    engine_start_s: float = 60.0
    """vLLM: processes, weights, compilation from its cache, CUDA graphs."""
    job_start_s: float = 30.0
    """torchrun, imports, DeepSpeed and NCCL, of a job of several processes; in the study's own process a third."""
    rewards_s: float = 5.0


ASSUMED = Assumed()


def generation_seconds(experiment: Experiment, shape: Shape, assumed: Assumed = ASSUMED) -> dict[str, float]:
    """Seconds of one generation by part. The engine samples on one GPU; `training.processes` GPUs train."""
    rollouts, training = experiment.rollouts, experiment.training
    assert rollouts is not None
    weights = _POLICY * shape.parameters
    mean = assumed.length * rollouts.max_tokens
    responses = experiment.prompts.per_generation * rollouts.n
    kv = 2 * shape.layers * shape.kv_width * 2.0  # bytes a token
    together = min(responses, assumed.sequences, assumed.kv_memory / (kv * (mean + assumed.prompt_tokens)))
    # While responses end one by one, on average half of them are there, with half of the longest length.
    token_s = (weights + together * kv * (mean + assumed.prompt_tokens) / 2) / assumed.memory_bytes_s
    tokens = responses * (mean + assumed.prompt_tokens)
    trained = training.updates_per_generation * min(training.prompt_batch, experiment.prompts.per_generation)
    trained_tokens = trained * rollouts.n * (mean + assumed.prompt_tokens)
    models = 2 if OBJECTIVE_NEEDS[training.objective].critic else 1
    passes = (8 if training.activation_checkpointing else 6) * models
    checkpoint = models * _CHECKPOINT * shape.parameters
    written = math.ceil(training.updates_per_generation / training.checkpoint_every)
    kept = checkpoint * (1 / assumed.disk_bytes_s + 1 / assumed.hash_bytes_s)
    return {
        "sampling": math.ceil(responses / together) * rollouts.max_tokens * token_s,
        "engine start": assumed.engine_start_s,
        "rewards and reference": assumed.rewards_s + 2 * shape.parameters * tokens / assumed.flops,
        "updates": passes * shape.parameters * trained_tokens / (training.processes * assumed.flops),
        "job start": assumed.job_start_s if training.processes > 1 else assumed.job_start_s / 3,
        "checkpoints": (written + 1) * kept,  # and one is read: that of the generation before
        "policy": weights * (1 / assumed.disk_bytes_s + 4 / assumed.hash_bytes_s),  # checked by three stages, and named
    }


def arm_hours(experiment: Experiment, shape: Shape) -> float:
    """Hours of all generations, without evaluation, which studies leave out."""
    return experiment.generations * sum(generation_seconds(experiment, shape).values()) / 3_600


def main() -> None:
    """Print the parts of every arm."""
    base = PolicyRef("0" * 16, "base")
    for name in sorted(path.stem for path in studies_folder().glob("*.yaml")):
        for size_name, size in load_study(name).sizes.items():
            shape = SHAPES.get(size.experiment)
            for arm in size.arms if shape else ():
                experiment = arm_experiment(size, arm, 0, base)
                assert shape is not None
                parts = generation_seconds(experiment, shape)
                words = ", ".join(f"{part} {seconds:.0f}" for part, seconds in parts.items())
                hours = arm_hours(experiment, shape)
                sys.stdout.write(f"{name} {size_name}, {arm.name}: {hours:.1f} h; seconds a generation: {words}\n")


if __name__ == "__main__":
    main()
