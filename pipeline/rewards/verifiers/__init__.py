"""The registry: a verifier is a module here with a `VERIFIER`, or a function named in the experiment's YAML."""

import functools
import importlib
import importlib.util

from pipeline.errors import ConfigError
from pipeline.rewards.types import DEFAULT, Conventions, Verifier

RUNNING_CODE = "reasoning_gym_running_code"
"""The package's scorer whatever it does with the answer. Neither a row nor a YAML can name this verifier: the Grader
takes it for the tasks that `rewards.tasks_whose_scorer_runs_answers_as_code` lists."""

GOLD_ANSWERS = "gold_answers"
"""Asks whether a gold answer is understood. Neither a row nor a YAML can name this one either."""


@functools.cache
def get_verifier(name: str, conventions: Conventions = DEFAULT) -> Verifier:
    """A verifier by its name in the configuration, under conventions. Raises ConfigError when there is none.

    Whether an experiment allows the name is asked of `RewardsConfig.may_run`, before this is called.
    """
    if name == RUNNING_CODE:
        return importlib.import_module("pipeline.rewards.verifiers.reasoning_gym").VERIFIER_RUNNING_CODE
    if name == GOLD_ANSWERS:
        return importlib.import_module("pipeline.rewards.verifiers.gold_answers").VERIFIER
    if ":" in name:
        from pipeline.rewards.verifiers.user_code import user_verifier

        return user_verifier(name)
    if name.isidentifier() and importlib.util.find_spec(f"{__name__}.{name}"):
        module = importlib.import_module(f"{__name__}.{name}")
        if hasattr(module, "VERIFIER"):
            return module.verifier(conventions) if hasattr(module, "verifier") else module.VERIFIER
    from pipeline.config.rewards import BUILTIN_VERIFIERS  # not for a worker, which is to start soon

    known = ", ".join(BUILTIN_VERIFIERS)
    raise ConfigError(f"there is no verifier {name!r}; use one of {known}, or package.module:function")
