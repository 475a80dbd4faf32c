"""How trajectories are sampled."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Config


class RolloutsConfig(Config):
    """Sampling of `n` responses to each prompt of a generation."""

    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """`auto` takes vLLM where it is installed and the model is large enough to pay for its start-up."""
    policy: str | None = None
    """Sample from this Hugging Face folder or hub id instead of policy[g] (a teacher, an older generation)."""
    n: int = Field(default=1, gt=0)
    """Responses to each prompt."""
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling. Below 1 the stored behaviour log-probs are no longer those of the distribution sampled from."""
    top_k: int = Field(default=0, ge=0)
    """Sample among the k most likely tokens; 0 is off. The remark on `top_p` holds here too."""
    max_tokens: int = Field(default=2_048, gt=0)
    """Longest response in tokens."""
    prompts_per_shard: int = Field(default=1_024, gt=0)
    """Prompts in one shard: what a killed stage repeats at most."""
    batch_size: int = Field(default=256, gt=0)
    """Sequences decoded together by the transformers engine; vLLM batches by itself."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of GPU memory that vLLM takes."""
    tensor_parallel: int = Field(default=1, gt=0)
    """GPUs that one copy of the model is split over (vLLM)."""
