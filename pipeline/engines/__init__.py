"""Sampling engines behind one interface; `load_engine` picks and starts one."""

from typing import Any

from pipeline.config.policy import PolicyConfig
from pipeline.config.rollouts import RolloutsConfig
from pipeline.engines.base import Engine, FinishReason, Request, Sample, Sampling
from pipeline.errors import TbrmError
from pipeline.policy import PolicyRef


def load_engine(rollouts: RolloutsConfig, policy_config: PolicyConfig, policy: PolicyRef, tokenizer: Any) -> Engine:
    """Start the engine that `rollouts.engine` names on `policy`. Raises TbrmError when it cannot be had."""
    if rollouts.engine == "vllm":
        raise TbrmError("rollouts.engine: vllm is not built yet; use `transformers` or `auto`")
    from pipeline.engines.transformers_engine import TransformersEngine

    stop_ids = stop_token_ids(policy.path, tokenizer)
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


__all__ = ["Engine", "FinishReason", "Request", "Sample", "Sampling", "load_engine", "stop_token_ids"]
