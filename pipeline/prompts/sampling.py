"""Which problems a generation draws."""

import random

from pipeline.config.experiment import Experiment
from pipeline.errors import TbrmError
from pipeline.prompts.arithmetic import arithmetic_problems
from pipeline.prompts.problem import Problem
from pipeline.store import seed_of


def problems_of_generation(problems: list[Problem], per_generation: int, generation: int, seed: int) -> list[Problem]:
    """The generation's draw: without replacement until the set is used up, then reshuffled.

    It depends on the seed and the generation alone, so generations can be made in any order and again. No problem
    comes twice in one generation, not even where a reshuffle falls into it: trajectory ids are made from prompt ids.
    Raises TbrmError when the set is smaller than one draw.
    """
    if per_generation > len(problems):
        raise TbrmError(
            f"prompts.per_generation is {per_generation}, but the set has {len(problems)} problems; "
            "for more trajectories of each raise `rollouts.n`"
        )
    epoch, offset = divmod(generation * per_generation, len(problems))
    order = _order(len(problems), per_generation, epoch, seed)
    drawn = order[offset : offset + per_generation]
    if len(drawn) < per_generation:
        drawn += _order(len(problems), per_generation, epoch + 1, seed)[: per_generation - len(drawn)]
    return [problems[i] for i in drawn]


def _order(size: int, per_generation: int, epoch: int, seed: int) -> list[int]:
    """Order of the problems in an epoch. A generation that began in the epoch before ends with others than it began."""
    order = _shuffled(size, 0, seed)
    for number in range(1, epoch + 1):
        shuffled = _shuffled(size, number, seed)
        begun = number * size % per_generation
        before = set(order[size - begun :])
        head = [i for i in shuffled if i not in before][: per_generation - begun] if begun else []
        first = set(head)
        order = head + [i for i in shuffled if i not in first]
    return order


def _shuffled(size: int, epoch: int, seed: int) -> list[int]:
    order = list(range(size))
    random.Random(seed_of(seed, "prompt order", epoch)).shuffle(order)
    return order


def heldout_problems(experiment: Experiment) -> list[Problem]:
    """Problems kept apart from training for evaluation. Raises TbrmError for a source that keeps none."""
    if experiment.prompts.source != "arithmetic":
        raise TbrmError(
            f"prompts.source '{experiment.prompts.source}' keeps no held-out problems; "
            "name benchmarks in `evaluation.benchmarks` instead of 'heldout'"
        )
    return arithmetic_problems(experiment.prompts.arithmetic, experiment.seed)[1]
