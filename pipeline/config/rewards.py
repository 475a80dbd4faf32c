"""How trajectories are labelled."""

import re
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, field_validator

from pipeline.config.base import Config, DecidesByContent, DecidesNothing
from pipeline.config.reasoning_gym import refusal
from pipeline.errors import did_you_mean

BUILTIN_VERIFIERS = ("math_verify", "exact_integer", "multiple_choice", "r1_format", "reasoning_gym", "plain")
USER_VERIFIER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class RewardComponents(Config):
    """Weights of the parts of a reward: reward = Σ weight · part. Every part is stored beside the sum."""

    correctness: float = 1.0
    """Weight of the verifier's verdict, which lies in [0, 1]."""
    format: float = 0.0
    """Weight of the format: 1 when the answer stood where the verifier asks for it, else 0."""
    length: float = 0.0
    """Weight of the length part: 0 up to `length_free_tokens`, falling linearly to -1 at `length_max_tokens`."""
    length_free_tokens: int = Field(default=1_536, ge=0)
    """Longest response in tokens that costs nothing."""
    length_max_tokens: int = Field(default=2_048, gt=0)
    """Response length in tokens from which on the length part is -1."""

    @field_validator("length_max_tokens")
    @classmethod
    def _falls(cls, value: int, info: object) -> int:
        free = getattr(info, "data", {}).get("length_free_tokens", 0)
        if value <= free:
            raise ValueError(f"must be more than length_free_tokens={free}")
        return value


class RewardConventions(Config):
    """What mathematics leaves open, as most projects have it unless set otherwise. docs/rewards.md has examples."""

    relative_tolerance: float = Field(default=1e-6, ge=0, lt=0.1)
    """Relative difference by which a rounded number (a decimal, a power of ten) may differ from the gold answer."""
    percent_is_the_number: Literal["never", "where_said", "always"] = "where_said"
    """Whether `25%` answers 25: `where_said` where the response speaks of percent outside of its answer as well. A gold
    `25%` takes 25, 25% and 0.25 in any case, a gold 0.25 takes 25%."""
    decimal_comma: bool = False
    """Read `2,74` as 2.74, in responses and gold answers. False: as the two numbers 2 and 74."""
    answer_in_thoughts: bool = False
    """Whether an answer inside `<think>` counts where nothing answers behind it."""


class RewardsConfig(Config):
    """The verifier, the limits it runs under, and what a response without a verdict is worth."""

    verifier: str = "math_verify"
    """Used for prompts that name none: math_verify, exact_integer, multiple_choice, r1_format, reasoning_gym, plain, or
    your own function as `package.module:function`."""
    user_verifiers: DecidesNothing[tuple[str, ...]] = ()
    """Further `package.module:function` that rows may name. Code that is named in data only is never imported."""
    row_verifiers: DecidesNothing[tuple[str, ...]] = ()
    """Built-in verifiers that rows may name besides `verifier`. A row that names another one is refused."""
    reasoning_gym_tasks: DecidesNothing[tuple[str, ...]] = ()
    """Tasks of reasoning-gym that rows may name in `extra.task`, besides those of `prompts.reasoning_gym.tasks`."""
    tasks_whose_scorer_runs_answers_as_code: tuple[str, ...] = ()
    """Tasks of reasoning-gym to grade by the package's own scorer although it RUNS THE ANSWER OR THE ROW AS PYTHON:
    text of a model, or of somebody's log. Each such row gets a process of its own, under the sandbox of the machine."""
    require_boxed: bool = False
    r"""Only a \boxed{} answer counts, without a box the status is wrong_format. False: the last expression counts."""
    conventions: DecidesByContent[RewardConventions] = RewardConventions()
    """What mathematics leaves open: tolerance, percent, decimal commas, answers inside thoughts. A setting that is not
    the default is part of the verifier's version, which is hashed."""
    components: RewardComponents = RewardComponents()
    """Composition of the reward."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Wall-clock seconds for one response. Generous: a busy machine must not change labels, `cpu_s` decides."""
    cpu_s: float = Field(default=2.0, gt=0)
    """Processor seconds for one response, enforced by the kernel. Importing the verifier does not count."""
    memory_mb: int = Field(default=1_024, gt=0)
    """Address space in MiB that a verifier may take beyond what its worker process has at the start (Linux)."""
    timeout_reward: float = 0.0
    """Reward of a response without a verdict (timeout, memory, error). The default is that of a wrong answer: a policy
    must gain nothing by writing what cannot be checked, and lose nothing more than by being wrong."""
    max_undecided_share: DecidesNothing[float] = Field(default=0.02, ge=0, le=1)
    """Share of responses without a verdict above which the generation's check warns."""
    token_rewards: bool = False
    """Give the verifier `extra["response_token_ids"]` and store the per-token rewards it returns (BRM uses them)."""
    audit_sample: DecidesNothing[int] = Field(default=200, ge=0)
    """Responses of each generation that are graded by a second method as well; the share of disagreement is stored."""
    workers: DecidesNothing[int] = Field(default=0, ge=0)
    """Verifier processes. 0: one for each processor core this process may use."""
    batch: DecidesNothing[int] = Field(default=32, gt=0)
    """Responses sent to a worker at a time. A batch that is killed is graded again one by one."""

    @field_validator("verifier")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in BUILTIN_VERIFIERS and not USER_VERIFIER.fullmatch(name):
            known = ", ".join(BUILTIN_VERIFIERS)
            near = did_you_mean(name, BUILTIN_VERIFIERS)
            raise ValueError(f"{name!r} is none of {known}, nor of the form package.module:function.{near}")
        return name

    @field_validator("user_verifiers")
    @classmethod
    def _dotted(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not USER_VERIFIER.fullmatch(name):
                raise ValueError(f"{name!r} is not of the form package.module:function")
        return names

    @field_validator("row_verifiers")
    @classmethod
    def _built_in(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in BUILTIN_VERIFIERS:
                known = ", ".join(BUILTIN_VERIFIERS)
                raise ValueError(f"{name!r} is none of {known}; functions of your own go into user_verifiers")
        return names

    @field_validator("reasoning_gym_tasks")
    @classmethod
    def _gradable(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for task in tasks:
            if reason := refusal(task):
                raise ValueError(f"the task {task!r} is not graded: {reason}")
        return tasks

    def may_run(self, verifier: str) -> bool:
        """Whether the experiment declares this verifier."""
        return verifier in (self.verifier, *self.user_verifiers, *self.row_verifiers)

    def may_grade(self, task: str) -> bool:
        """Whether the experiment declares this task of reasoning-gym."""
        return task in (*self.reasoning_gym_tasks, *self.tasks_whose_scorer_runs_answers_as_code)

    def declaring(self, verifiers: Iterable[str], tasks: Iterable[str]) -> Self:
        """The same with further tasks and built-in verifiers that rows may name; functions are not added."""
        named = {*self.row_verifiers, *(name for name in verifiers if name in BUILTIN_VERIFIERS)}
        gradable = {*self.reasoning_gym_tasks, *tasks}
        return self.model_copy(
            update={"row_verifiers": tuple(sorted(named)), "reasoning_gym_tasks": tuple(sorted(gradable))}
        )
