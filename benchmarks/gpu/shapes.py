"""What the parts run on: model shapes of published sizes (or toys of the same kind), and random trajectories."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config.policy import PolicyConfig
from pipeline.config.training import TrainingConfig
from pipeline.scoring.batch import GroupStats, Trajectory
from trainer.data.trajectories import group_stats
from trainer.job import TrainJob

PROMPT_TOKENS = 100
BETA = 0.002


@dataclass(frozen=True)
class ModelShape:
    """A Qwen2 decoder without its weights."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool


@dataclass(frozen=True)
class Sizes:
    """Every size that a part needs, so that the rehearsal runs the same code on small numbers."""

    small: ModelShape
    """The model of the update, length and reference parts."""
    large: ModelShape
    """The model of the LoRA part."""
    head_tokens: int
    head_chunks: tuple[int, ...]
    attention_tokens: tuple[int, ...]
    response_tokens: int
    """Longest response of the update parts."""
    trajectories: int
    """Of the stored data set; GRPO trains on all of them in one update."""
    micro_tokens: tuple[int, ...]
    """Micro-batches tried; the first is used wherever only one is."""
    longest: tuple[int, ...]
    """Response lengths tried in the length part, ascending."""
    generations: int
    prompts: int
    """Of each generation of the learning part."""


QWEN_1P5B = ModelShape("Qwen2.5-Math-1.5B", 1_536, 8_960, 28, 12, 2, 151_936, True)
QWEN_7B = ModelShape("Qwen2.5-Math-7B", 3_584, 18_944, 28, 28, 4, 152_064, False)
TOY = ModelShape("toy", 64, 128, 2, 4, 2, 1_024, True)

PUBLISHED = Sizes(
    small=QWEN_1P5B,
    large=QWEN_7B,
    head_tokens=8_192,
    head_chunks=(256, 512, 1_024, 2_048, 4_096, 8_192),
    attention_tokens=(16_384, 32_768),
    response_tokens=2_048,
    trajectories=512,
    micro_tokens=(8_192, 4_096, 16_384, 32_768),
    longest=(8_192, 16_384, 24_576, 32_768, 49_152, 65_536, 98_304, 131_072),
    generations=10,
    prompts=256,
)
REHEARSAL = Sizes(
    small=TOY,
    large=TOY,
    head_tokens=64,
    head_chunks=(16, 64),
    attention_tokens=(256,),
    response_tokens=32,
    trajectories=32,
    micro_tokens=(512, 1_024),
    longest=(64, 128),
    generations=2,
    prompts=8,
)


def model_folder(shape: ModelShape, work: Path) -> Path:
    """A Hugging Face folder of `shape` with random bf16 weights and a tiny tokenizer, made once in `work`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from pipeline.policies.tiny import save_tiny_arith

    folder = work / f"model-{shape.name}"
    if (folder / "done").exists():
        return folder
    save_tiny_arith(folder, 0)
    config = Qwen2Config(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=131_072,
        tie_word_embeddings=shape.tied,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model: Any = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    (folder / "done").touch()
    return folder


def trajectories(vocabulary: int, count: int, n: int, longest: int, seed: int = 0) -> list[Trajectory]:
    """`count` random trajectories, `n` to a prompt, of 16 to `longest` response tokens with a long tail.

    Log-probs lie near those of a random model, -log(vocabulary), so that ratios are near 1 as they are in training.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(np.log(longest / 3), 0.7, count)
    lengths = np.clip(drawn, min(16, longest), longest).astype(int)
    rewards = rng.integers(0, 2, count).astype(float)
    means, stds, sizes, soft = group_stats(rewards, np.arange(0, count + 1, n), BETA)
    return [
        _trajectory(rng, vocabulary, i, i // n, int(size), float(rewards[i]), (means, stds, sizes, soft))
        for i, size in enumerate(lengths)
    ]


def one_trajectory(vocabulary: int, length: int) -> Trajectory:
    """A trajectory of exactly `length` response tokens."""
    rng = np.random.default_rng(0)
    stats = group_stats(np.ones(1), np.arange(2), BETA)
    return _trajectory(rng, vocabulary, 0, 0, length, 1.0, stats)


def _trajectory(
    rng: np.random.Generator, vocabulary: int, number: int, group: int, size: int, reward: float, stats: Any
) -> Trajectory:
    level = -np.log(vocabulary)
    means, stds, sizes, soft = stats
    return Trajectory(
        trajectory_id=f"t{number}",
        prompt_id=f"p{group}",
        prompt_ids=rng.integers(3, vocabulary, PROMPT_TOKENS).astype(np.int32),
        response_ids=rng.integers(3, vocabulary, size).astype(np.int32),
        response_mask=np.ones(size, dtype=bool),
        reward=reward,
        ref_logprobs=(level + 0.05 * rng.standard_normal(size)).astype(np.float32),
        behavior_logprobs=(level + 0.05 * rng.standard_normal(size)).astype(np.float32),
        group=GroupStats(float(means[group]), float(stds[group]), int(sizes[group]), float(soft[group])),
    )


def job_of(folder: Path, state: Path, **training: Any) -> TrainJob:
    """A bf16 training job on the model in `folder`; `training` sets fields of TrainingConfig."""
    config = TrainingConfig.model_validate({"beta": BETA, "diagnostics_sample": 0, "max_residual": 1e12} | training)
    model = PolicyConfig(base=str(folder), dtype="bfloat16")
    return TrainJob("benchmark", folder, state, model, config, updates=1_000, seed=0, config_hash="benchmark")
