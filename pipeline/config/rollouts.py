"""How trajectories are sampled."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.base import Config, DecidesByContent, DecidesNothing, DecidesOneGeneration
from pipeline.config.policy import ServerModel, named_policy


class AgreementConfig(Config):
    """Comparison of the engine's log-probs with the trainer's, on a sample of each generation."""

    sample: int = Field(default=64, ge=0)
    """Trajectories that are scored again after sampling. 0: none."""
    max_mean_gap: float = Field(default=0.05, gt=0)
    """Mean |difference| of a token in nats above which the check warns (bfloat16 against float32: 0.033)."""
    max_token_gap: float = Field(default=2.0, gt=0)
    """Largest |difference| of one token in nats above which the check warns."""
    max_response_gap: float = Field(default=5.0, gt=0)
    """Mean |difference| of Σ_h log π over a response above which the check warns: the residual holds such a sum."""


class EngineConfig(Config):
    """How an engine runs, whoever acts in it: sampling and evaluation share it."""

    engine: DecidesOneGeneration[Literal["auto", "transformers", "vllm"]] = "auto"
    """`auto` takes vLLM where it is installed and the model is large enough to pay for its start-up."""
    batch_size: DecidesNothing[int] = Field(default=256, gt=0)
    """Sequences decoded together by the transformers engine, or asked of a server at once; vLLM batches by itself."""
    auto_min_parameters: DecidesNothing[int] = Field(default=50_000_000, ge=0)
    """Parameters from which `auto` takes vLLM: below, its start-up costs more than its speed gives back."""
    max_model_len: DecidesOneGeneration[int | None] = Field(default=None, gt=0)
    """Longest prompt and response together (vLLM). None: what the model allows, at most `prompts.max_prompt_tokens` +
    `max_tokens`, so that its memory goes to sequences that can occur."""
    gpu_memory_utilization: DecidesNothing[float] = Field(default=0.9, gt=0, le=1)
    """Share of GPU memory that vLLM takes."""
    cpu_kv_cache_gb: DecidesNothing[float] = Field(default=1.0, gt=0)
    """Memory of vLLM's key-value cache where there is no GPU."""
    prefix_caching: DecidesNothing[bool] = True
    """Compute the prompt once for its `n` responses (vLLM)."""
    eager: DecidesNothing[bool] = False
    """Skip vLLM's compilation and CUDA graphs: a faster start, slower decoding. Always so without a GPU."""
    tensor_parallel: DecidesNothing[int] = Field(default=1, gt=0)
    """GPUs that each layer of one copy of the model is split over (vLLM)."""
    pipeline_parallel: DecidesNothing[int] = Field(default=1, gt=0)
    """Groups of layers on GPUs of their own (vLLM). Several copies of the model (data parallelism) are
    `ray.workers`."""


class RolloutsConfig(EngineConfig):
    """Sampling of `n` responses to each prompt of a generation: who acts, how, and in which engine."""

    policy: str | None = None
    """Sample from this Hugging Face folder, hub id, `package:NAME` or `builtin:NAME` instead of policy[g] (a teacher,
    an older generation), or from an OpenAI-compatible server: `http://host:8000/v1#model`. It must share the
    experiment's tokenizer."""
    adapter: DecidesByContent[str | None] = None
    """Folder of a LoRA adapter that vLLM serves on top of the policy; its hash becomes part of the policy's id."""
    n: int = Field(default=1, gt=0)
    """Responses to each prompt."""
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling. Below 1 the stored behaviour log-probs are no longer those of the distribution sampled from."""
    top_k: int = Field(default=0, ge=0)
    """Sample among the k most likely tokens; 0 is off. The remark on `top_p` holds here too."""
    max_tokens: int = Field(default=2_048, gt=0, lt=2**31)
    """Longest response in tokens; it also ends where the model's context does."""
    stop: tuple[str, ...] = ()
    """Texts that end a response, beside the end-of-sequence tokens; they stay part of it (vLLM and servers)."""
    prompts_per_shard: DecidesNothing[int] = Field(default=1_024, gt=0)
    """Prompts in one shard: what a killed stage repeats at most, and what vLLM batches together."""
    # It decides the table of prompts, whose hash it is part of; the trajectories follow that table's shards.
    warm: DecidesNothing[bool] = False
    """`tbrm run` keeps one vLLM engine for the whole experiment, which takes each generation's weights in place: for
    many small generations, where starting it takes longer than sampling. Elsewhere: `tbrm rollout-service`."""
    agreement: DecidesNothing[AgreementConfig] = AgreementConfig()

    @property
    def endpoint(self) -> bool:
        """Whether the behaviour policy is a server."""
        return self.policy is not None and isinstance(named_policy(self.policy), ServerModel)

    def how(self) -> EngineConfig:
        """How the engine runs, without who acts in it and what is asked of it."""
        return EngineConfig.model_validate(self.model_dump(include=set(EngineConfig.model_fields)))

    @model_validator(mode="after")
    def _parts_agree(self) -> "RolloutsConfig":
        if self.engine == "transformers" and (self.adapter or self.stop) and not self.endpoint:
            raise ValueError("`rollouts.adapter` and `rollouts.stop` need `rollouts.engine: vllm`")
        if self.warm and (self.engine == "transformers" or self.endpoint):
            raise ValueError("`rollouts.warm` keeps a vLLM engine: it needs `rollouts.engine: vllm` (or `auto`)")
        if self.endpoint and self.adapter:
            raise ValueError("`rollouts.adapter` cannot be given to a server: name the adapter as its model")
        return self
