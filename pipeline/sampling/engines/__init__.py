"""Sampling engines behind one interface; `load_engine` picks and starts one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.policy import PolicyConfig
from pipeline.config.rollouts import EngineConfig
from pipeline.policies.load_save import load_config
from pipeline.policies.refs import Acting, ServedPolicy
from pipeline.policies.tokenizer import model_vocabulary
from pipeline.sampling.engines.base import Engine, FinishReason, Request, Sample, Sampling
from pipeline.sampling.engines.choice import Choice, choose_engine


def load_engine(
    config: EngineConfig,
    policy_config: PolicyConfig,
    policy: Acting,
    tokenizer: Any,
    longest: int | None = None,
    service: Path | None = None,
    stop: Sequence[str] = (),
) -> Engine:
    """Start the engine that `config.engine` names (or `auto` chooses) on `policy`.

    With `longest` vLLM keeps room for sequences of so many tokens only, prompt and response together. With `service`
    the vLLM of the rollout service at that socket is used, where there is one. `stop` is what will be asked for.
    Raises TbrmError when the engine cannot be had; another one never takes its place.
    """
    choice = choose_engine(config, policy, stop)
    if isinstance(policy, ServedPolicy):
        from pipeline.sampling.engines.openai_engine import OpenAIEngine

        end = [int(tokenizer.eos_token_id)]
        return OpenAIEngine(policy, config.batch_size, end, tokenizer, model_vocabulary(tokenizer.name_or_path))
    stop_ids = stop_token_ids(policy.path, tokenizer)
    if choice.name == "vllm":
        from pipeline.sampling.engines.vllm_engine import VllmEngine
        from pipeline.sampling.engines.vllm_start import VllmStart
        from pipeline.sampling.engines.warm_engine import WarmEngine

        start = VllmStart(
            policy, policy_config.dtype, config, tuple(stop_ids), model_room(config, policy.path, longest)
        )
        return VllmEngine(start) if service is None else WarmEngine(service, start)
    from pipeline.sampling.engines.transformers_engine import TransformersEngine

    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
    return TransformersEngine(policy, policy_config, config.batch_size, stop_ids, pad_id)


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


def model_room(config: EngineConfig, path: str, longest: int | None) -> int | None:
    """Tokens of one sequence that vLLM has to hold: see `rollouts.max_model_len`."""
    wanted = longest if config.max_model_len is None else config.max_model_len
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
