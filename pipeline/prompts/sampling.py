"""Which problems a generation draws."""

import random

from pipeline.config.experiment import Experiment
from pipeline.errors import TbrmError
from pipeline.prompts.arithmetic import arithmetic_problems
from pipeline.prompts.problem import Problem
from pipeline.store import seed_of


def problems_of_generation(problems: list[Problem], per_generation: int, generation: int, seed: int) -> list[Problem]:
    """The generation's draw: without replacement until the set is used up, then reshuffled.

    It depends on the seed and the generation alone, so generations can be made in any order and again.
    """
    start = generation * per_generation
    drawn: list[Problem] = []
    while len(drawn) < per_generation:
        epoch, offset = divmod(start + len(drawn), len(problems))
        order = list(range(len(problems)))
        random.Random(seed_of(seed, "prompt order", epoch)).shuffle(order)
        drawn += [problems[i] for i in order[offset : offset + per_generation - len(drawn)]]
    return drawn


def heldout_problems(experiment: Experiment) -> list[Problem]:
    """Problems kept apart from training for evaluation. Raises TbrmError for a source that keeps none."""
    if experiment.prompts.source != "arithmetic":
        raise TbrmError(
            f"prompts.source '{experiment.prompts.source}' keeps no held-out problems; "
            "name benchmarks in `evaluation.benchmarks` instead of 'heldout'"
        )
    return arithmetic_problems(experiment.prompts.arithmetic, experiment.seed)[1]
