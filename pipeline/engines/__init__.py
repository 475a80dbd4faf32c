"""Sampling engines behind one interface; `load_engine` picks and starts one."""

from pathlib import Path
from typing import Any

from pipeline.config.policy import PolicyConfig
from pipeline.config.rollouts import RolloutsConfig
from pipeline.engines.base import Engine, FinishReason, Request, Sample, Sampling
from pipeline.engines.choice import Choice, choose_engine
from pipeline.models import load_config
from pipeline.policy import PolicyRef
from pipeline.tokenizer import model_vocabulary


def load_engine(
    rollouts: RolloutsConfig,
    policy_config: PolicyConfig,
    policy: PolicyRef,
    tokenizer: Any,
    max_prompt_tokens: int | None = None,
    service: Path | None = None,
) -> Engine:
    """Start the engine that `rollouts.engine` names (or `auto` chooses) on `policy`.

    With `max_prompt_tokens` vLLM keeps room for sequences of that prompt and `rollouts.max_tokens` only. With `service`
    the vLLM of the rollout service at that socket is used, where there is one.
    Raises TbrmError when the engine cannot be had; another one never takes its place.
    """
    choice = choose_engine(rollouts, policy.path)
    if choice.name == "openai":
        from pipeline.engines.openai_engine import OpenAIEngine

        end = [int(tokenizer.eos_token_id)]
        rows = model_vocabulary(tokenizer.name_or_path)
        return OpenAIEngine(policy, rollouts.batch_size, end, rollouts.stop, tokenizer, rows, [rollouts.policy or ""])
    stop_ids = stop_token_ids(policy.path, tokenizer)
    if choice.name == "vllm":
        from pipeline.engines.vllm_engine import VllmEngine
        from pipeline.engines.vllm_start import VllmStart
        from pipeline.engines.warm import WarmEngine

        room = model_room(rollouts, policy.path, max_prompt_tokens)
        start = VllmStart(policy, policy_config.dtype, rollouts, tuple(stop_ids), room)
        return VllmEngine(start) if service is None else WarmEngine(service, start)
    from pipeline.engines.transformers_engine import TransformersEngine

    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
    return TransformersEngine(policy, policy_config, rollouts.batch_size, stop_ids, pad_id)


def stop_token_ids(path: str, tokenizer: Any) -> list[int]:
    """Ids that end a response: the tokenizer's end-of-sequence and those of the folder's generation config."""
    from transformers import GenerationConfig

    ids = {tokenizer.eos_token_id}
    try:
        configured = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        configured = None  # a folder without generation_config.json
    ids.update(configured if isinstance(configured, list) else [configured])
    return sorted(i for i in ids if i is not None)


def context_length(path: str) -> int | None:
    """Longest sequence of the model in a folder, prompt and response together; None where its config does not say."""
    length = getattr(load_config(path), "max_position_embeddings", None)
    return int(length) if length else None


def model_room(rollouts: RolloutsConfig, path: str, max_prompt_tokens: int | None) -> int | None:
    """Tokens of one sequence that vLLM has to hold: see `rollouts.max_model_len`."""
    wanted = rollouts.max_model_len
    if wanted is None and max_prompt_tokens is not None:
        wanted = max_prompt_tokens + rollouts.max_tokens
    limits = [limit for limit in (wanted, context_length(path)) if limit is not None]
    return min(limits) if limits else None


__all__ = [
    "Choice",
    "Engine",
    "FinishReason",
    "Request",
    "Sample",
    "Sampling",
    "choose_engine",
    "context_length",
    "load_engine",
    "model_room",
    "stop_token_ids",
]
