"""Which stored trajectories train a policy."""

import re

from pydantic import Field, field_validator, model_validator

from pipeline.config.base import Config

LOGGED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Filters(Config):
    """Trajectories that stay in the mix. A filter that is not given lets everything pass."""

    finish_reasons: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Keep these only, e.g. `[stop]` leaves out responses that were cut at the length limit."""
    min_response_tokens: int = Field(default=1, ge=1)
    """Shortest response. An empty one has no action and cannot be trained on."""
    max_response_tokens: int | None = Field(default=None, ge=1)
    """Longest response."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt."""
    statuses: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Keep rewards of these statuses only, e.g. `[ok, wrong_format]` leaves out responses without a verdict."""
    success_rate: tuple[float, float] | None = None
    """Keep prompts whose share of successful responses lies in [low, high]; counted over all responses to the prompt in
    the same data set and generation, before any other filter."""
    success_reward: float = 0.5
    """A response with at least this reward is a success."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> "Filters":
        if self.success_rate and not 0 <= self.success_rate[0] <= self.success_rate[1] <= 1:
            raise ValueError(f"success_rate {list(self.success_rate)} must be [low, high] with 0 <= low <= high <= 1")
        if self.max_response_tokens is not None and self.max_response_tokens < self.min_response_tokens:
            raise ValueError("max_response_tokens is below min_response_tokens: nothing would be left")
        return self


class LoggedSource(Config):
    """A logged data set in the mix."""

    name: str
    """As under `<root>/logged/`; `tbrm import --name` gave it."""
    weight: float | None = Field(default=None, gt=0)
    """Share of the mix, relative to the other weights. See `ReplayConfig.generation_weight`."""
    generation: int | None = Field(default=None, ge=0)
    """Only this partition of the data set; by default all of them."""
    rewards: str | None = None
    """Label version: table `rewards@<version>`. Default: `rewards`, as imported."""
    ref_logprobs: str | None = None
    """Label version: table `ref_logprobs@<version>`. Default: the one scored by this experiment's reference."""

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, name: str) -> str:
        if not LOGGED_NAME.fullmatch(name) or name == "generation":
            raise ValueError(f"{name!r} cannot name a logged data set: letters, digits and . _ -, and not 'generation'")
        return name

    @field_validator("rewards", "ref_logprobs")
    @classmethod
    def _is_a_label(cls, label: str | None) -> str | None:
        return checked_label(label)


class ReplayConfig(Config):
    """The replay mix: the last generations of the experiment and any logged data sets."""

    window: int = Field(default=1, ge=0)
    """Generations of the experiment's own trajectories, the current one included. 1 is on-policy, 0 uses none."""
    lag: int = Field(default=0, ge=0)
    """Age of the window's newest generation: 0 is the current one. Above, training runs that many generations behind
    the sampling (the first generations, with nothing that old, train on generation 0)."""
    generation_weight: float | None = Field(default=None, gt=0)
    """Share of the window's generations together. Without any weight every trajectory of every source is used. With
    weights (a source without one counts 1) the mix is the largest in which the sources stand in that proportion and no
    trajectory stands twice; whole prompts are drawn by the experiment's seed."""
    generation_decay: float = Field(default=1.0, gt=0, le=1)
    """Weight of a generation relative to the next newer one. Below 1 it turns weighting on."""
    logged: tuple[LoggedSource, ...] = ()
    """Logged data sets to mix in."""
    filters: Filters = Filters()
    """Applied to every source."""
    max_per_prompt: int | None = Field(default=None, ge=1)
    """Responses kept of one prompt (of one data set and generation), drawn by the seed."""
    min_per_prompt: int = Field(default=1, ge=1)
    """Prompts with fewer responses than this, after all that leaves single ones out, are left out. `grpo`, `daa_point`
    and `daa_pair` compare responses to one prompt and refuse a single one: 2 lets them train on such data."""
    dedup: bool = False
    """Keep one of trajectories with the same prompt and response tokens; the freshest source wins."""
    rewards: str | None = None
    """Label version of the experiment's own trajectories: table `rewards@<version>`. Default: `rewards`."""
    ref_logprobs: str | None = None
    """Label version of the experiment's own trajectories: table `ref_logprobs@<version>`. Default: `ref_logprobs`."""

    @field_validator("rewards", "ref_logprobs")
    @classmethod
    def _is_a_label(cls, label: str | None) -> str | None:
        return checked_label(label)

    @model_validator(mode="after")
    def _sources_differ(self) -> "ReplayConfig":
        keys = [(source.name, source.generation) for source in self.logged]
        names_whole = {source.name for source in self.logged if source.generation is None}
        for name, generation in keys:
            if keys.count((name, generation)) > 1 or (generation is not None and name in names_whole):
                raise ValueError(f"logged data set {name!r} is named twice: its trajectories would be counted twice")
        return self


def checked_label(label: str | None) -> str | None:
    """A label version as it may stand behind the `@` of a table. Raises ValueError."""
    if label is not None and not LABEL.fullmatch(label):
        raise ValueError(f"label {label!r}: letters, digits and . _ - only")
    return label
