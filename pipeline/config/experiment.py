"""The whole of an experiment: one YAML file, one tree, every field documented under it."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.base import Config, DecidesNothing
from pipeline.config.cluster import LaunchConfig, RayConfig
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.policy import PolicyConfig, ReferenceConfig, ServerModel, named_policy
from pipeline.config.prompts import PromptsConfig
from pipeline.config.replay import ReplayConfig
from pipeline.config.rewards import RewardsConfig
from pipeline.config.rollouts import RolloutsConfig
from pipeline.config.training import OBJECTIVE_NEEDS, TrainingConfig
from pipeline.errors import ConfigError

TrackerName = Literal["none", "tensorboard", "wandb", "trackio"]
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
RESERVED_NAMES = ("logged", "evaluated", "dagster_home", "tracked")


class Experiment(Config):
    """Iterated data generations: sample, label, score, train on the replay mix, publish, again."""

    name: str
    """Lower-case letters, digits and `_`: it is a folder of the store and an asset group of Dagster."""
    description: DecidesNothing[str] = ""
    """One sentence for people."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Every random choice of the experiment derives from this number."""
    generations: DecidesNothing[int] = Field(gt=0, le=10_000)
    """How many times policy[g] becomes policy[g+1]."""
    policy: PolicyConfig
    prompts: PromptsConfig
    rollouts: RolloutsConfig | None
    """`none`: nothing is sampled, training uses logged data sets only (pure offline)."""
    rewards: RewardsConfig = RewardsConfig()
    reference: ReferenceConfig = ReferenceConfig()
    replay: ReplayConfig = ReplayConfig()
    training: TrainingConfig
    evaluation: EvaluationConfig | None = None
    servers: DecidesNothing[tuple[str, ...]] = ()
    """Servers (`http://host:8000/v1`) that a run started in the UI may ask, besides those in `rollouts.policy` and
    `evaluation.pinned`. The key in OPENAI_API_KEY is sent to these three and to no other."""
    ray: DecidesNothing[RayConfig | None] = None
    """Shards of sampling and labelling on a Ray cluster. None: on the machine of the stage."""
    large_model_on_cpu: DecidesNothing[bool] = False
    """Sample, score and train a model of more than 200M parameters although there is no GPU: hours for minutes."""
    tracker: DecidesNothing[TrackerName] = "none"
    """Where the numbers of every stage and update go besides the store, as one run of the experiment: `tensorboard`
    (event files in the folder `tracked` of the store), `wandb` or `trackio` (extra `trackers`; keys are read from the
    environment as usual)."""
    launch: DecidesNothing[LaunchConfig | None] = None
    """Stages as jobs of Slurm or of Ray's job server. None: all on Dagster's machine."""

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if not NAME.fullmatch(name) or name in RESERVED_NAMES:
            raise ValueError(f"{name!r} must be 1 to 64 of a-z, 0-9, _ and not one of {', '.join(RESERVED_NAMES)}")
        return name

    @field_validator("servers")
    @classmethod
    def _are_addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for address in addresses:
            if not _is_server(address):
                raise ValueError(f"{address!r} is no address of a server: write it as http://host:8000/v1")
        return addresses

    def on_cluster(self, stage: str) -> bool:
        """Whether the shards of this stage are made by a Ray cluster."""
        return self.ray is not None and stage in self.ray.stages

    @property
    def named_servers(self) -> tuple[str, ...]:
        """Addresses of every server that this experiment names."""
        behaviour = (self.rollouts.policy or "",) if self.rollouts else ()
        pinned = self.evaluation.pinned if self.evaluation else ()
        return tuple(address for address in (*self.servers, *behaviour, *pinned) if _is_server(address))

    @field_validator("rollouts", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: object) -> object:
        return None if value == "none" else value

    @model_validator(mode="after")
    def _parts_agree(self) -> "Experiment":
        logged = bool(self.replay.logged)
        if (self.rollouts is None or self.replay.window == 0) and not logged:
            raise ValueError(
                "nothing to train on: `rollouts: none` or `replay.window: 0` needs a data set in `replay.logged`"
            )
        if self.policy.base.startswith("builtin:") and self.prompts.template == "chat":
            raise ValueError(f"`prompts.template: chat`: {self.policy.base} has no chat template; use `raw`")
        needs = OBJECTIVE_NEEDS[self.training.objective]
        n = self.rollouts.n if self.rollouts else None
        if needs.groups and n == 1 and not logged:
            raise ValueError(
                f"`training.objective: {self.training.objective}` compares several responses to one prompt: "
                "set `rollouts.n` to 2 or more"
            )
        if needs.groups and self.replay.max_per_prompt == 1:
            raise ValueError(
                f"`training.objective: {self.training.objective}` compares several responses to one prompt: "
                "`replay.max_per_prompt: 1` leaves single ones; set it to 2 or more"
            )
        if needs.behavior_logprobs and self.rollouts is not None and self.replay.window > 0:
            found = {"temperature": self.rollouts.temperature, "top_p": self.rollouts.top_p}
            if found != {"temperature": 1.0, "top_p": 1.0} or self.rollouts.top_k != 0:
                raise ValueError(
                    f"`training.objective: {self.training.objective}` divides by behaviour log-probs, which are the "
                    "model's at temperature 1 over all tokens: it needs `rollouts.temperature: 1`, `top_p: 1` and "
                    "`top_k: 0`"
                )
        if self.policy.dtype != "float32" and self.training.zero_stage == 0:
            raise ValueError(
                f"`training.zero_stage: 0` keeps no fp32 master weights of a {self.policy.dtype} policy: set it to 1"
            )
        return self


def _is_server(address: str) -> bool:
    return isinstance(named_policy(address), ServerModel)


def check_generation(experiment: Experiment, generation: int, policies: bool = False) -> None:
    """Raise ConfigError unless the experiment has this generation; of `policies` it has one more."""
    last = experiment.generations - (0 if policies else 1)
    if generation > last:
        what = "policies" if policies else "generations"
        raise ConfigError(
            f"{experiment.name} has {what} 0 to {last} (`generations: {experiment.generations}`), no {generation}: "
            "raise `generations`, or name another"
        )


def declared_rewards(experiment: Experiment) -> RewardsConfig:
    """`rewards`, and what the experiment's own prompts name: a source `reasoning_gym` declares its tasks."""
    gym = experiment.prompts.reasoning_gym if experiment.prompts.source == "reasoning_gym" else None
    return experiment.rewards.declaring(["reasoning_gym"], gym.tasks) if gym else experiment.rewards
